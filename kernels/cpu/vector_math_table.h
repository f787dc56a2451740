// The elementary functions of vector_math.h on arrays, for code that is not compiled per
// instruction set.

#ifndef KERNELS_CPU_VECTOR_MATH_TABLE_H_
#define KERNELS_CPU_VECTOR_MATH_TABLE_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

// y may be x. Error bounds: vector_math.h.
struct VectorMathKernels {
  void (*exp)(const float* x, float* y, int64_t count);
  void (*log1p_unit)(const float* x, float* y, int64_t count);  // 0 <= x <= 1
  void (*sigmoid)(const float* x, float* y, int64_t count);
  void (*tanh)(const float* x, float* y, int64_t count);
};
const VectorMathKernels& VectorMathKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_VECTOR_MATH_TABLE_H_
