// Matrix products by cuBLASLt, in the row-major terms of the ops.
//
// cuBLASLt thinks in columns: a row-major [rows, columns] matrix is its column-major [columns,
// rows] one. So d = a b is asked for as d^T = b^T a^T: operands change places, and "rows of D",
// along which a bias lies, are our columns. Only algorithms whose sums have a fixed order are
// chosen: the same operands give the same bits.

#ifndef KERNELS_CUDA_BLAS_H_
#define KERNELS_CUDA_BLAS_H_

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/runtime/device.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/tensor.h"

namespace vitscale::cuda {

// What happens to a product before it is stored. Source: cublasLtEpilogue_t. GELU is the tanh form.
enum class BlasEpilogue : uint8_t {
  kNone,
  kBias,  // + bias [columns], in d's dtype
  kGelu,  // gelu(…)
  kBiasGelu,
  kGeluAux,  // aux = …; gelu(…). aux [rows, columns], in d's dtype, columns a multiple of 8
  kBiasGeluAux,
  kGeluGrad,  // … * gelu'(aux)
};

// d [rows, columns] = epilogue(a [rows, inner] b [inner, columns] + (add ? c : 0)).
struct BlasMatmul {
  int64_t rows = 0, columns = 0, inner = 0;
  bool transpose_a = false;                          // a is stored [inner, rows]
  bool transpose_b = false;                          // b is stored [columns, inner]
  int64_t a_stride = 0, b_stride = 0, d_stride = 0;  // elements from stored row to row; c as d
  DType input = DType::kBf16, output = DType::kBf16;
  BlasEpilogue epilogue = BlasEpilogue::kNone;
  bool add = false;
  const void* a = nullptr;
  const void* b = nullptr;
  const void* c = nullptr;  // may be d
  void* d = nullptr;
  const void* bias = nullptr;
  void* aux = nullptr;  // rows lie next to each other
};

// A product with its operands and its algorithm.
class BoundMatmul;

class Blas {
 public:
  static absl::StatusOr<std::unique_ptr<Blas>> Create(const DeviceLimits& limits);
  ~Blas();

  // UNIMPLEMENTED where the library has no way to do this (an epilogue with these dtypes or
  // strides).
  absl::StatusOr<std::shared_ptr<const BoundMatmul>> Bind(const BlasMatmul& matmul);
  absl::Status Run(const BoundMatmul& matmul, cudaStream_t stream) const;

  std::string version() const;  // "cuBLASLt 13.1"

 private:
  struct Destroy {
    void operator()(cublasLtHandle_t handle) const { (void)cublasLtDestroy(handle); }
  };
  // Everything that an algorithm's choice depends on.
  using Key = std::array<int64_t, 16>;

  Blas() = default;
  static Key KeyOf(const BlasMatmul& matmul);
  absl::StatusOr<cublasLtMatmulAlgo_t> Choose(const BoundMatmul& matmul) const;

  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, Destroy> handle_;
  DeviceMemory workspace_;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_BLAS_H_
