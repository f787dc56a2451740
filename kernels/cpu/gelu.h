// GELU (tanh form) on rows that are hot in cache: the epilogue of Linear and LinearGradInput.
//
// gelu(x) = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). Source: Hendrycks and Gimpel,
// arXiv:1606.08415, section 2.

#ifndef KERNELS_CPU_GELU_H_
#define KERNELS_CPU_GELU_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

// `count` elements, any alignment, any count. y may be pre, grad_x may be grad_y; no other overlap.
struct GeluKernels {
  void (*forward_f32)(const float* pre, float* y, int64_t count);
  void (*forward_bf16)(const Bf16* pre, Bf16* y, int64_t count);
  // grad_x = grad_y * gelu'(pre)
  void (*backward_f32)(const float* grad_y, const float* pre, float* grad_x, int64_t count);
  void (*backward_bf16)(const Bf16* grad_y, const Bf16* pre, Bf16* grad_x, int64_t count);
  // Both, with one exponential: y = gelu(pre) to the bit as `forward` gives it.
  void (*both_f32)(const float* grad_y, const float* pre, float* grad_x, float* y, int64_t count);
  void (*both_bf16)(const Bf16* grad_y, const Bf16* pre, Bf16* grad_x, Bf16* y, int64_t count);
};
const GeluKernels& GeluKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_GELU_H_
