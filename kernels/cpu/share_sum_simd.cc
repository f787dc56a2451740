// Column sums of the slots of an ordered reduction; contract in share_sum.h.

#include "kernels/cpu/share_sum.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

void Sum(const float* shares, int64_t count, int64_t stride, int64_t columns, bool accumulate,
         float* out) {
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int64_t left = columns - c;
    F64 total = accumulate ? Widen(LoadPartial(out + c, left)) : ZeroDouble();
    for (int64_t s = 0; s < count; ++s) {
      total = total + Widen(LoadPartial(shares + s * stride + c, left));
    }
    StorePartial(out + c, Narrow(total), left);
  }
}

}  // namespace

extern const ShareSumKernels kShareSumKernels;
const ShareSumKernels kShareSumKernels = {Sum};

}  // namespace vitscale::cpu::VITSCALE_SIMD
