// Where the time of a trainer went. Every moment belongs to exactly one state, so the seconds add
// up to wall time.

#ifndef WORKER_TRAINER_CORE_GOODPUT_H_
#define WORKER_TRAINER_CORE_GOODPUT_H_

#include <algorithm>
#include <optional>

#include "absl/time/time.h"
#include "worker/link/messages.h"

namespace vitscale {

class GoodputMeter {
 public:
  using Bucket = double link::Goodput::*;

  // From `now` on time counts as `bucket`.
  void Switch(Bucket bucket, absl::Time now) {
    Advance(now);
    bucket_ = bucket;
  }
  void Advance(absl::Time now) {
    if (last_) total_.*bucket_ += std::max(0.0, absl::ToDoubleSeconds(now - *last_));
    last_ = now;
  }
  // Part of what was just counted belongs elsewhere: a step that waited for images.
  void Move(double seconds, Bucket from, Bucket to) {
    seconds = std::min(seconds, total_.*from);
    total_.*from -= seconds;
    total_.*to += seconds;
  }
  const link::Goodput& total() const { return total_; }

 private:
  Bucket bucket_ = &link::Goodput::queued;
  std::optional<absl::Time> last_;
  link::Goodput total_;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_CORE_GOODPUT_H_
