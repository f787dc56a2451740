// What the CUDA runtime says, as a status.

#ifndef KERNELS_CUDA_RUNTIME_CUDA_STATUS_H_
#define KERNELS_CUDA_RUNTIME_CUDA_STATUS_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace vitscale::cuda {

// OK, RESOURCE_EXHAUSTED for no memory, FAILED_PRECONDITION where there is no driver or device,
// else INTERNAL: "launch: an illegal memory access was encountered (cudaErrorIllegalAddress)".
inline absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text =
      absl::StrCat(what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(text);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
      return absl::FailedPreconditionError(text);
    default:
      return absl::InternalError(text);
  }
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_RUNTIME_CUDA_STATUS_H_
