// What the linear ops need besides a matmul.

#ifndef KERNELS_CPU_LINEAR_H_
#define KERNELS_CPU_LINEAR_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

struct LinearKernels {
  void (*add)(const float* a, const float* b, float* y,
              int64_t count);  // y = a + b; y may be a or b
};
const LinearKernels& LinearKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_LINEAR_H_
