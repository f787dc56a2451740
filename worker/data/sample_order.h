// Which sample stands at which place of which step: a pure function of (seed, size, batch_global),
// so that a resumed run, another number of workers and another number of threads see the same
// samples.
//
// epoch = step div floor(size / batch_global); within an epoch the samples follow a permutation
// keyed by (seed, epoch), and the remainder that fills no batch is left out of that epoch (another
// one each time).

#ifndef WORKER_DATA_SAMPLE_ORDER_H_
#define WORKER_DATA_SAMPLE_ORDER_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace vitscale {

struct SamplePlace {
  int64_t epoch = 0;   // keys the draws of this visit
  int64_t sample = 0;  // index in the source
};

class SampleOrder {
 public:
  // INVALID_ARGUMENT unless 0 < batch_global <= size.
  static absl::StatusOr<SampleOrder> Create(uint64_t seed, int64_t size, int64_t batch_global);

  int64_t steps_per_epoch() const { return size_ / batch_global_; }
  int64_t batch_global() const { return batch_global_; }
  // `step` counts updates already done: 0 for the first batch. `position` in [0, batch_global).
  SamplePlace At(int64_t step, int64_t position) const;

 private:
  SampleOrder(uint64_t seed, int64_t size, int64_t batch_global)
      : seed_(seed), size_(size), batch_global_(batch_global) {}

  uint64_t seed_;
  int64_t size_, batch_global_;
};

}  // namespace vitscale

#endif  // WORKER_DATA_SAMPLE_ORDER_H_
