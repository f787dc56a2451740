// The only way to start a kernel, and what a kernel may need before. Host code.

#ifndef KERNELS_CUDA_DIALECT_LAUNCH_H_
#define KERNELS_CUDA_DIALECT_LAUNCH_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/dialect/dialect.h"
#include "kernels/cuda/runtime/cuda_status.h"

namespace vitscale::cuda {

inline constexpr size_t kSharedBytesWithoutAsking = 48 * 1024;

// Lets blocks of `kernel` have `shared_bytes` on the device of this thread. An op whose kernel
// wants more than kSharedBytesWithoutAsking asks when it is prepared, so that a launch need not.
// Any thread, any number of times: what is set is all that the device has, so nobody lowers what
// another asked for. INTERNAL when the device has less.
template <typename... Parameters>
absl::Status AllowSharedBytes(void (*kernel)(Parameters...), size_t shared_bytes) {
  if (shared_bytes <= kSharedBytesWithoutAsking) return absl::OkStatus();
  int device = 0, most = 0;
  VITSCALE_RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&device), "ask for the device"));
  VITSCALE_RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                 "ask for the shared memory of a block"));
  if (shared_bytes > static_cast<size_t>(most)) {
    return absl::InternalError(absl::StrCat("a kernel wants ", shared_bytes,
                                            " bytes of shared memory, the device has ", most));
  }
  return CudaStatus(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, most),
                    "allow a kernel more shared memory");
}

// Puts kernel(args...) into `stream`. Arguments are converted to the kernel's parameter types. More
// shared memory than kSharedBytesWithoutAsking takes an AllowSharedBytes before. INTERNAL with the
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
    return cudaLaunchKernel(function, grid, block, pointers, shared_bytes, stream);
  };
  return CudaStatus(start(static_cast<Parameters>(args)...), "launch");
#endif
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_LAUNCH_H_
