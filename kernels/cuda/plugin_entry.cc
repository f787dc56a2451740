// The one symbol that a program takes from this plugin.

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/nccl/nccl_communicator.h"
#include "kernels/plugin.h"

extern "C" const vitscale::PluginApi* vitscale_plugin() {
  static const auto* tag =
      new std::string(vitscale::PluginTag(VITSCALE_REVISION, VITSCALE_INTERFACE));
  static const vitscale::PluginApi api{tag->c_str(), vitscale::cuda::CreateCudaBackend,
                                       vitscale::cuda::CreateNcclCommunicator};
  return &api;
}
