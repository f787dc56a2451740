// Which images a few-shot evaluation learns from.
//
// For each seed a generator of its own; class by class, in order of class, the indices of the
// class's images are permuted, and k shots are the first k. So fewer shots are part of more shots,
// and a class with fewer than k images gives all it has.
// Source: big_vision evaluators/fewshot_lsr.py; draws as numpy's (numpy_random.h).

#ifndef WORKER_EVAL_SHOTS_H_
#define WORKER_EVAL_SHOTS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace vitscale {

// By class: indices into `labels`, at most `most` of each class, in the order drawn. A class
// without images is empty. Labels are in [0, classes).
using ShotsByClass = std::vector<std::vector<int64_t>>;
ShotsByClass DrawShots(absl::Span<const int32_t> labels, int classes, int64_t most, uint64_t seed);

// The first `shots` of every class, class by class.
std::vector<int64_t> FirstShots(const ShotsByClass& drawn, int64_t shots);

// Every index that occurs, once, ascending.
std::vector<int64_t> UnionOf(const std::vector<ShotsByClass>& draws);

}  // namespace vitscale

#endif  // WORKER_EVAL_SHOTS_H_
