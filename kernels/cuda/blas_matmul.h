// A product as cuBLASLt takes it: descriptors with their owners. Only blas*.cc include this.

#ifndef KERNELS_CUDA_BLAS_MATMUL_H_
#define KERNELS_CUDA_BLAS_MATMUL_H_

#include <cublasLt.h>

#include <memory>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/blas.h"

namespace vitscale::cuda {

// OK, UNIMPLEMENTED for what the library does not support, else INTERNAL.
absl::Status BlasStatus(cublasStatus_t status, absl::string_view what);

struct DestroyLayout {
  void operator()(cublasLtMatrixLayout_t layout) const {
    (void)cublasLtMatrixLayoutDestroy(layout);
  }
};
using Layout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>, DestroyLayout>;

struct DestroyDescription {
  void operator()(cublasLtMatmulDesc_t description) const {
    (void)cublasLtMatmulDescDestroy(description);
  }
};
using Description =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, DestroyDescription>;

struct BlasWorkspace {
  void* memory = nullptr;
  size_t bytes = 0;
};

class BoundMatmul {
 public:
  static absl::StatusOr<std::shared_ptr<BoundMatmul>> Create(const BlasMatmul& m);
  cublasStatus_t Run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                     const BlasWorkspace& workspace, cudaStream_t stream) const;

  BlasMatmul matmul;
  Description description;
  Layout a, b, d;
  cublasLtMatmulAlgo_t algorithm{};
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_BLAS_MATMUL_H_
