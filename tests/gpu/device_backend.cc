// Tests of tests/cuda_on_cpu ask for the CUDA backend directly; here they get it as a program does,
// from the plugin.

#include "kernels/cuda/cuda_backend.h"

namespace vitscale::cuda {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  return CreateBackend(options);
}

}  // namespace vitscale::cuda
