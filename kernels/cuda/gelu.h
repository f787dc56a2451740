// GELU in the tanh form, as kernels/cpu/gelu_simd.cc and cuBLASLt's gradient of it have it.

#ifndef KERNELS_CUDA_GELU_H_
#define KERNELS_CUDA_GELU_H_

#include <cmath>

#include "kernels/cuda/dialect/dialect.h"
#include "kernels/cuda/dialect/fast_math.h"

namespace vitscale::cuda {

inline constexpr float kGeluSlope = 0.7978845608028654f;  // sqrt(2 / pi)
inline constexpr float kGeluCubic = 0.044715f;

// Written with the logistic function, 0.5 (1 + tanh u) = 1 / (1 + e^-2u): a dozen instructions, so
// that memory stays the limit, and no cancellation in the negative tail.
__device__ inline float Gelu(float x) {
  const float u2 = 2.0f * kGeluSlope * x * fmaf(x * x, kGeluCubic, 1.0f);
  return FastDivide(x, 1.0f + FastExp(-u2));
}
// d gelu / d x.
__device__ inline float GeluSlope(float x) {
  const float t = tanhf(kGeluSlope * (x + kGeluCubic * x * x * x));
  const float inner = kGeluSlope * (1.0f + 3.0f * kGeluCubic * x * x);
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_GELU_H_
