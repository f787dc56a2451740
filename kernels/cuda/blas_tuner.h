// Which of several algorithms multiplies a shape fastest, measured on this device.

#ifndef KERNELS_CUDA_BLAS_TUNER_H_
#define KERNELS_CUDA_BLAS_TUNER_H_

#include <cublasLt.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/blas_matmul.h"

namespace vitscale::cuda {

// The index of the candidate with the least median of five runs, each with an L2 cache that holds
// nothing of the operands, as in a step. Operands are memory of its own, freed when it returns;
// those of `matmul` are not touched. RESOURCE_EXHAUSTED where there is no room for them. A
// candidate that does not run is passed over; UNIMPLEMENTED if none does.
absl::StatusOr<size_t> FastestOf(const std::vector<cublasLtMatmulAlgo_t>& candidates,
                                 const BlasMatmul& matmul, cublasLtHandle_t handle,
                                 const BlasWorkspace& workspace, int64_t l2_bytes);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_BLAS_TUNER_H_
