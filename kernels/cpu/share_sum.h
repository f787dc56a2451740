// The second stage of every ordered reduction: one slot per item, added up in index order.

#ifndef KERNELS_CPU_SHARE_SUM_H_
#define KERNELS_CPU_SHARE_SUM_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

struct ShareSumKernels {
  // out[c] = (accumulate ? out[c] : 0) + sum over s of shares[s * stride + c], c < columns; summed
  // in f64 in the order of s and rounded once.
  void (*sum)(const float* shares, int64_t count, int64_t stride, int64_t columns, bool accumulate,
              float* out);
};
const ShareSumKernels& ShareSumKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_SHARE_SUM_H_
