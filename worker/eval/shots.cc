#include "worker/eval/shots.h"

#include <algorithm>
#include <utility>

#include "worker/eval/numpy_random.h"

namespace vitscale {

ShotsByClass DrawShots(absl::Span<const int32_t> labels, int classes, int64_t most, uint64_t seed) {
  ShotsByClass by_class(classes);
  for (size_t i = 0; i < labels.size(); ++i) {
    by_class[labels[i]].push_back(static_cast<int64_t>(i));
  }
  NumpyRandom random(seed);
  for (std::vector<int64_t>& indices : by_class) {
    indices = random.Permutation(std::move(indices));
    indices.resize(std::min<size_t>(indices.size(), most));
  }
  return by_class;
}

std::vector<int64_t> FirstShots(const ShotsByClass& drawn, int64_t shots) {
  std::vector<int64_t> indices;
  for (const std::vector<int64_t>& of_class : drawn) {
    const int64_t count = std::min<int64_t>(shots, of_class.size());
    indices.insert(indices.end(), of_class.begin(), of_class.begin() + count);
  }
  return indices;
}

std::vector<int64_t> UnionOf(const std::vector<ShotsByClass>& draws) {
  std::vector<int64_t> all;
  for (const ShotsByClass& drawn : draws) {
    for (const std::vector<int64_t>& of_class : drawn) {
      all.insert(all.end(), of_class.begin(), of_class.end());
    }
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

}  // namespace vitscale
