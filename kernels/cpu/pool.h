// Row kernels of MeanPool and Tanh.

#ifndef KERNELS_CPU_POOL_H_
#define KERNELS_CPU_POOL_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

struct PoolKernels {
  // y[c] = sum over t of x[t, c], times scale; summed in f32 in the order of t.
  void (*sum_rows_f32)(const float* x, int64_t rows, int64_t width, float scale, float* y);
  void (*sum_rows_bf16)(const Bf16* x, int64_t rows, int64_t width, float scale, float* y);
  void (*scale)(const float* x, float scale, float* y, int64_t count);  // y = scale * x; y may be x
  void (*tanh_f32)(const float* x, float* y, int64_t count);
  void (*tanh_bf16)(const Bf16* x, Bf16* y, int64_t count);
  // grad_x = grad_y * (1 - y^2)
  void (*tanh_grad_f32)(const float* grad_y, const float* y, float* grad_x, int64_t count);
  void (*tanh_grad_bf16)(const Bf16* grad_y, const Bf16* y, Bf16* grad_x, int64_t count);
};
const PoolKernels& PoolKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_POOL_H_
