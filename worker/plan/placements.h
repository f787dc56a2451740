// One micro-batch for every device that a job may come to run on: it is fixed before anybody knows
// which one that will be, and cannot change, for it decides the order of sums.

#ifndef WORKER_PLAN_PLACEMENTS_H_
#define WORKER_PLAN_PLACEMENTS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/plan/plan.h"

namespace vitscale {

struct Placement {
  PlanRequest request;       // for that device; its batch_micro is not read
  int64_t memory_bytes = 0;  // of the card, or of the worker on the CPU; 0: not limited
  std::string name;          // begins what does not fit: "2 cuda workers (NVIDIA H100 80GB HBM3)"
};

// The greatest that ChooseMicroBatch gives for every one of `placements`, which must not be empty
// and have one global batch. Errors: those of ChooseMicroBatch; RESOURCE_EXHAUSTED with the name of
// the placement.
absl::StatusOr<int64_t> ChooseMicroBatch(absl::Span<const Placement> placements, int workers);

}  // namespace vitscale

#endif  // WORKER_PLAN_PLACEMENTS_H_
