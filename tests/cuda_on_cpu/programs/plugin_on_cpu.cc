// The symbol that a program takes from the plugin made for the host: as
// kernels/cuda/plugin_entry.cc, with the stand-in of NCCL, and as many devices as a test may need,
// of VITSCALE_CARD_BYTES of memory where the environment says so.

#include <cstdlib>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/nccl/nccl_communicator.h"
#include "kernels/plugin.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/nccl_standin.h"

namespace vitscale {
namespace {

constexpr int kDevices = 2;

absl::StatusOr<std::unique_ptr<Communicator>> CreateCommunicatorOnCpu(
    const CommunicatorOptions& options) {
  return cuda::CreateNcclCommunicator(options, cuda_on_cpu::NcclStandin());
}

}  // namespace
}  // namespace vitscale

// For a test that trains in its own process: what device and pinned memory was asked for so far.
extern "C" int64_t vitscale_allocations() { return vitscale::cuda_on_cpu::Counts().allocations; }

extern "C" const vitscale::PluginApi* vitscale_plugin() {
  static const auto* tag =
      new std::string(vitscale::PluginTag(VITSCALE_REVISION, VITSCALE_INTERFACE));
  static const vitscale::PluginApi api{tag->c_str(), vitscale::cuda::CreateCudaBackend,
                                       vitscale::CreateCommunicatorOnCpu};
  vitscale::cuda_on_cpu::SetDeviceCount(vitscale::kDevices);
  if (const char* bytes = std::getenv("VITSCALE_CARD_BYTES"); bytes != nullptr) {
    vitscale::cuda_on_cpu::SetDeviceMemory(std::strtoll(bytes, nullptr, 10));
  }
  return &api;
}
