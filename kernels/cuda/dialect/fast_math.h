// Every approximate intrinsic that kernels may use, with its error. Anything else is plain <cmath>
// (expf, tanhf, ...). Errors: CUDA C++ Programming Guide 13.0, "Intrinsic Functions".

#ifndef KERNELS_CUDA_DIALECT_FAST_MATH_H_
#define KERNELS_CUDA_DIALECT_FAST_MATH_H_

#include <cmath>

#include "kernels/cuda/dialect/dialect.h"

namespace vitscale::cuda {

// e^x within 2 + floor(|1.173 x|) ulp.
__device__ inline float FastExp(float x) {
#ifdef VITSCALE_CUDA_ON_CPU
  return std::exp(x);
#else
  return __expf(x);
#endif
}

// 2^x within 2 ulp.
__device__ inline float FastExp2(float x) {
#ifdef VITSCALE_CUDA_ON_CPU
  return std::exp2(x);
#else
  return exp2f(x);
#endif
}

// 2^x within 2^-22 relative, in one instruction; what would be below 2^-126 is 0. Source: PTX ISA
// 9.0, ex2.approx.ftz.f32.
__device__ inline float FastExp2Flushed(float x) {
#ifdef VITSCALE_CUDA_ON_CPU
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// a / b within 2 ulp for |b| in [2^-126, 2^126].
__device__ inline float FastDivide(float a, float b) {
#ifdef VITSCALE_CUDA_ON_CPU
  return a / b;
#else
  return __fdividef(a, b);
#endif
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_FAST_MATH_H_
