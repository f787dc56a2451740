// Which micro-batches of a step a rank runs: dealt contiguously, a pure function of (micro-batches,
// ranks, rank), so that the images of a step are the same whatever the number of ranks.

#ifndef WORKER_TRAINER_ENGINE_DEAL_H_
#define WORKER_TRAINER_ENGINE_DEAL_H_

#include <cstdint>
#include <vector>

#include "worker/data/loader.h"

namespace vitscale {

// Places in the global batch, one entry per micro-batch, in order. Ranks differ by at most one
// micro-batch.
inline std::vector<BatchRange> DealMicroBatches(int64_t batch_global, int64_t batch_micro,
                                                int world_size, int rank) {
  const int64_t count = batch_global / batch_micro;
  std::vector<BatchRange> ranges;
  for (int64_t i = count * rank / world_size; i < count * (rank + 1) / world_size; ++i) {
    ranges.push_back({i * batch_micro, batch_micro});
  }
  return ranges;
}

}  // namespace vitscale

#endif  // WORKER_TRAINER_ENGINE_DEAL_H_
