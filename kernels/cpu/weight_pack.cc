#include "kernels/cpu/weight_pack.h"

VITSCALE_SIMD_TABLE(WeightPackKernels, kWeightPackF32, WeightPackF32For)
VITSCALE_SIMD_TABLE(WeightPackKernels, kWeightPackBf16, WeightPackBf16For)

namespace vitscale::cpu {

const WeightPackKernels& WeightPackKernelsFor(Isa isa, bool bf16) {
  return bf16 ? WeightPackBf16For(isa) : WeightPackF32For(isa);
}

}  // namespace vitscale::cpu
