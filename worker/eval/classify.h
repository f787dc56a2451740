// Loss and top-1 of a labelled set, over all ranks of a generation.
//
// The set is cut into batches by index; ranks take batches in turn; the last one is padded with
// images of weight 0. Every image is counted once whatever the number of ranks, and the sums of
// batches are added in the order of batches, in f64, on every rank: the result does not depend on
// the number of ranks to the last bit.

#ifndef WORKER_EVAL_CLASSIFY_H_
#define WORKER_EVAL_CLASSIFY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/collective/collective.h"
#include "worker/data/source.h"
#include "worker/eval/eval_model.h"

namespace vitscale {

struct ClassifyResult {
  int64_t images = 0;
  double loss = 0;  // mean
  double top1 = 0;  // share
};

// Every rank calls it with the same set and batch. `timeout` is for the exchange at the end, after
// the slowest rank. `collective_failed` says whether an error came from the exchange.
// `cores`: see RunBatches.
absl::StatusOr<ClassifyResult> Classify(const ImageSource& source, int64_t batch, EvalModel& model,
                                        Collective& collective, absl::Duration timeout,
                                        bool* collective_failed, int cores = 1);

}  // namespace vitscale

#endif  // WORKER_EVAL_CLASSIFY_H_
