// What Linear and its two gradients share.

#ifndef KERNELS_CUDA_LINEAR_H_
#define KERNELS_CUDA_LINEAR_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/linear_tail.h"
#include "kernels/tensor.h"

namespace vitscale::cuda {

// Pieces of the scratch of all ops, one behind the other.
class ScratchPieces {
 public:
  explicit ScratchPieces(CudaOpBuilder& builder) : builder_(builder) {}
  template <typename T>
  T* Take(int64_t count) {
    const int64_t begin = used_;
    used_ = AlignUp(begin + count * static_cast<int64_t>(sizeof(T)), 256);
    return reinterpret_cast<T*>(static_cast<std::byte*>(builder_.Scratch(used_)) + begin);
  }

 private:
  CudaOpBuilder& builder_;
  int64_t used_ = 0;
};

// Blas::Bind, with its choice noted.
absl::StatusOr<std::shared_ptr<const BoundMatmul>> BindMatmul(const BlasMatmul& matmul,
                                                              CudaOpBuilder& builder);

// An operand of a product, [rows, columns]: as it is, or made f32 in scratch before the product.
class ProductOperand {
 public:
  ProductOperand(const TensorView& view, DType want, ScratchPieces& scratch,
                 const CudaOpBuilder& builder)
      : memory_(builder.Memory<const void>(view)), elements_(view.elements()) {
    if (view.dtype != want) wide_ = scratch.Take<float>(elements_);
  }
  const void* at() const { return wide_ != nullptr ? wide_ : memory_; }
  absl::Status Widen(cudaStream_t stream) const {
    if (wide_ == nullptr) return absl::OkStatus();
    return LaunchWiden(memory_, wide_, elements_, stream);
  }

 private:
  const void* memory_;
  int64_t elements_;
  float* wide_ = nullptr;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_LINEAR_H_
