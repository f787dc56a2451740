// The two kernels of GradStats, for the table in optimizer_simd.cc.

#ifndef KERNELS_CPU_GRAD_STATS_SIMD_H_
#define KERNELS_CPU_GRAD_STATS_SIMD_H_

#include "kernels/cpu/optimizer.h"

namespace vitscale::cpu::VITSCALE_SIMD {

double FactoredStats(const StatsTile& tile);
double SquareSum(const float* gradient, float scale, int64_t count);

}  // namespace vitscale::cpu::VITSCALE_SIMD

#endif  // KERNELS_CPU_GRAD_STATS_SIMD_H_
