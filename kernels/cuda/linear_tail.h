// What stands around a product: GELU, and where cuBLASLt cannot do it on the way, f32 inputs made
// from bf16 ones, and bias, cast and GELU's gradient on an f32 product.

#ifndef KERNELS_CUDA_LINEAR_TAIL_H_
#define KERNELS_CUDA_LINEAR_TAIL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/cuda_op.h"

namespace vitscale::cuda {

// to[i] = from[i], exactly. `from` is bf16.
absl::Status LaunchWiden(const void* from, float* to, int64_t elements, cudaStream_t stream);

// y[i] = gelu(pre[i]); y may be pre. The same bits whoever asks: forward, and backward once more.
struct GeluPass {
  const void* pre = nullptr;  // [elements]
  void* y = nullptr;          // [elements]
  DType dtype = DType::kF32;  // of both
  int64_t elements = 0;
};
absl::Status LaunchGelu(const GeluPass& gelu, cudaStream_t stream);

enum class TailKind : uint8_t {
  kPlain,     // y = z
  kGeluGrad,  // y = z * gelu'(pre)
};
// z = product + bias.
struct LinearTail {
  TailKind kind = TailKind::kPlain;
  const float* product = nullptr;  // [rows, columns]; may be y
  const float* bias = nullptr;     // [columns], optional
  const void* pre = nullptr;       // [rows, columns], dtype of y; kGeluGrad only
  void* y = nullptr;               // [rows, columns]
  DType dtype = DType::kF32;       // of pre and y
  int64_t rows = 0, columns = 0;
};
absl::Status LaunchTail(const LinearTail& tail, cudaStream_t stream);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_LINEAR_TAIL_H_
