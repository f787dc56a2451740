// The only way to start a kernel. Host code.

#ifndef KERNELS_CUDA_DIALECT_LAUNCH_H_
#define KERNELS_CUDA_DIALECT_LAUNCH_H_

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/cuda/dialect/dialect.h"
#include "kernels/cuda/runtime/cuda_status.h"

namespace vitscale::cuda {

inline constexpr size_t kSharedBytesWithoutAsking = 48 * 1024;

// Puts kernel(args...) into `stream`. Arguments are converted to the kernel's parameter types. A
// block may have more than 48 KiB of shared memory; the limit is raised here. INTERNAL with the
// runtime's words when it is refused.
template <typename... Parameters, typename... Args>
absl::Status Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                    cudaStream_t stream, Args... args) {
#ifdef VITSCALE_CUDA_ON_CPU
  std::vector<host_twin::KernelArgument> arguments;
  (host_twin::AddArgument(static_cast<Parameters>(args), arguments), ...);
  return host_twin::Launch([=] { kernel(static_cast<Parameters>(args)...); },
                           reinterpret_cast<const void*>(kernel), std::move(arguments), grid, block,
                           shared_bytes, stream);
#else
  const auto start = [&](Parameters... parameters) {
    void* pointers[] = {&parameters..., nullptr};
    const void* function = reinterpret_cast<const void*>(kernel);
    if (shared_bytes > kSharedBytesWithoutAsking) {
      const cudaError_t error = cudaFuncSetAttribute(
          function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
      if (error != cudaSuccess) return error;
    }
    return cudaLaunchKernel(function, grid, block, pointers, shared_bytes, stream);
  };
  return CudaStatus(start(static_cast<Parameters>(args)...), "launch");
#endif
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_LAUNCH_H_
