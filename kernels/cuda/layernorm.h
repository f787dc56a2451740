// What the forms of LayerNorm and its gradient must compute alike to the bit.

#ifndef KERNELS_CUDA_LAYERNORM_H_
#define KERNELS_CUDA_LAYERNORM_H_

#include <cmath>

#include "kernels/cuda/dialect/dialect.h"

namespace vitscale::cuda {

__device__ inline float Normalised(float x, float mean, float inv_std) {
  return (x - mean) * inv_std;
}
// Multiplications that are added are fused by name: a compiler that chose to in one kernel only
// would change bits between forward and backward, or between the residual form and LayerNorm of the
// stored sum.
__device__ inline float ScaleAndShift(float h, float gamma, float beta) {
  return fmaf(h, gamma, beta);
}
__device__ inline float AddSquare(float squares, float difference) {
  return fmaf(difference, difference, squares);
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_LAYERNORM_H_
