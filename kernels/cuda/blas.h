// Matrix products by cuBLASLt, in the row-major terms of the ops.
//
// cuBLASLt thinks in columns: a row-major [rows, columns] matrix is its column-major [columns,
// rows] one. So d = a b is asked for as d^T = b^T a^T: operands change places, and "rows of D",
// along which a bias lies, are our columns. Only algorithms whose sums have a fixed order are
// chosen: the same operands give the same bits.

#ifndef KERNELS_CUDA_BLAS_H_
#define KERNELS_CUDA_BLAS_H_

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/blas_cache.h"
#include "kernels/cuda/runtime/device.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/tensor.h"

namespace vitscale::cuda {

// What happens to a product before it is stored. Source: cublasLtEpilogue_t. GELU is the tanh form.
enum class BlasEpilogue : uint8_t {
  kNone,
  kBias,      // + bias [columns], in d's dtype
  kGeluGrad,  // … * gelu'(aux). aux [rows, columns], in d's dtype, columns a multiple of 8
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

class BoundMatmul;  // a product with its operands and its algorithm
// Names shape and algorithm, not the operands' places: see PreparedProgram::choices().
uint64_t ChoiceOf(const BoundMatmul& matmul);
struct BlasWorkspace;

class Blas {
 public:
  static absl::StatusOr<std::unique_ptr<Blas>> Create(const Device& device);
  ~Blas();

  // UNIMPLEMENTED where the library has no way to do this (an epilogue with these dtypes or
  // strides).
  absl::StatusOr<std::shared_ptr<const BoundMatmul>> Bind(const BlasMatmul& matmul);
  absl::Status Run(const BoundMatmul& matmul, cudaStream_t stream) const;

  // After a program was bound: keeps what was measured for processes to come.
  void FinishPrepare();

  std::string version() const;  // "cuBLASLt 13.1"

 private:
  struct Destroy {
    void operator()(cublasLtHandle_t handle) const { (void)cublasLtDestroy(handle); }
  };

  explicit Blas(const Device& device);
  BlasWorkspace workspace() const;
  const cublasLtMatmulAlgo_t* Known(const BoundMatmul& bound, const MatmulKey& key);
  absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> Candidates(const BoundMatmul& bound) const;
  absl::StatusOr<cublasLtMatmulAlgo_t> Choose(const BoundMatmul& bound, const MatmulKey& key);

  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, Destroy> handle_;
  DeviceMemory workspace_;
  int64_t l2_bytes_;
  AlgorithmCache& cache_;                                 // of the process; saved by FinishPrepare
  std::map<MatmulKey, cublasLtMatmulAlgo_t> algorithms_;  // checked, or chosen here
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_BLAS_H_
