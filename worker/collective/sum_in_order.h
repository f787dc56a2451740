// The sum that shared-memory collectives compute.

#ifndef WORKER_COLLECTIVE_SUM_IN_ORDER_H_
#define WORKER_COLLECTIVE_SUM_IN_ORDER_H_

#include <cstdint>

#include "absl/types/span.h"

namespace vitscale {

// first[i] = second[i] = ((inputs[0][i] + inputs[1][i]) + inputs[2][i]) …, each addition rounded to
// f32. `first` or `second` may be one of the inputs, or the same; else nothing overlaps. At least
// one input. `second` is for others to read: stored past the caches, and fast from 16-byte
// boundaries only (streamed.h).
void SumInOrder(absl::Span<const float* const> inputs, int64_t count, float* first, float* second);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SUM_IN_ORDER_H_
