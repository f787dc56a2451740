// Casts and the Polyak average on contiguous elements.

#ifndef KERNELS_CPU_ELEMENTWISE_H_
#define KERNELS_CPU_ELEMENTWISE_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

// `count` elements, any alignment, any count; no overlap.
struct ElementwiseKernels {
  void (*to_bf16)(const float* x, Bf16* y, int64_t count);
  void (*to_f32)(const Bf16* x, float* y, int64_t count);
  // average = decay * average + complement * parameters; the caller gives complement = 1 - decay.
  void (*average)(const float* parameters, float decay, float complement, float* average,
                  int64_t count);
};
const ElementwiseKernels& ElementwiseKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_ELEMENTWISE_H_
