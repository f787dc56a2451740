// How long a step may take: max(30 s, 10 x p99 of the last 200 steps); 10 min for the first 5 of a
// process, which warm caches and choose variants.

#ifndef WORKER_TRAINER_CORE_DEADLINES_H_
#define WORKER_TRAINER_CORE_DEADLINES_H_

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/time/time.h"

namespace vitscale {

class StepDeadline {
 public:
  void Add(absl::Duration step) {
    if (steps_.size() < kWindow) {
      steps_.push_back(step);
    } else {
      steps_[count_ % kWindow] = step;
    }
    ++count_;
  }

  absl::Duration Next() const {
    if (count_ < kWarmUpSteps) return absl::Minutes(10);
    std::vector<absl::Duration> sorted = steps_;
    const size_t p99 = std::min(sorted.size() - 1, sorted.size() * 99 / 100);
    std::nth_element(sorted.begin(), sorted.begin() + p99, sorted.end());
    return std::max(absl::Seconds(30), 10 * sorted[p99]);
  }

 private:
  static constexpr size_t kWindow = 200;
  static constexpr size_t kWarmUpSteps = 5;
  std::vector<absl::Duration> steps_;
  size_t count_ = 0;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_CORE_DEADLINES_H_
