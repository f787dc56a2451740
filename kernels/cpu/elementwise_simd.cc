// Contract: elementwise.h. Bound by memory; written with vectors so that the rounding is the same
// everywhere.

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/simd_loop.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

template <typename X, typename Y>
void Cast(const X* x, Y* y, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int)
                        VITSCALE_BODY { Store(y + c, Load(x + c, lanes), lanes); });
}

void Average(const float* parameters, float decay, float complement, float* average,
             int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 kept = Set(decay) * Load(average + c, lanes);
    Store(average + c, MulAdd(Set(complement), Load(parameters + c, lanes), kept), lanes);
  });
}

}  // namespace

extern const ElementwiseKernels kElementwiseKernels;
const ElementwiseKernels kElementwiseKernels = {Cast<float, Bf16>, Cast<Bf16, float>, Average};

}  // namespace vitscale::cpu::VITSCALE_SIMD
