// Contract: vector_math_table.h.

#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/vector_math_table.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

#define VITSCALE_APPLY(Name, Function)                                                           \
  void Name(const float* x, float* y, int64_t count) {                                           \
    ForVectors(count, [&](int64_t c, auto lanes, int)                                            \
                          VITSCALE_BODY { Store(y + c, Function(Load(x + c, lanes)), lanes); }); \
  }
VITSCALE_APPLY(ExpArray, Exp)
VITSCALE_APPLY(Log1pUnitArray, Log1pUnit)
VITSCALE_APPLY(SigmoidArray, Sigmoid)
VITSCALE_APPLY(TanhArray, Tanh)
#undef VITSCALE_APPLY

}  // namespace

extern const VectorMathKernels kVectorMathKernels;
const VectorMathKernels kVectorMathKernels = {ExpArray, Log1pUnitArray, SigmoidArray, TanhArray};

}  // namespace vitscale::cpu::VITSCALE_SIMD
