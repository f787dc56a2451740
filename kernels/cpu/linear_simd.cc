#include "kernels/cpu/linear.h"
#include "kernels/cpu/simd_loop.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

void Add(const float* a, const float* b, float* y, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    Store(y + c, Load(a + c, lanes) + Load(b + c, lanes), lanes);
  });
}

}  // namespace

extern const LinearKernels kLinearKernels;
const LinearKernels kLinearKernels = {Add};

}  // namespace vitscale::cpu::VITSCALE_SIMD
