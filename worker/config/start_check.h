// What a job must have in common with the run whose checkpoint it starts from.

#ifndef WORKER_CONFIG_START_CHECK_H_
#define WORKER_CONFIG_START_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/config/job_config.h"

namespace vitscale {

enum class StartKind {
  kBranch,       // parameters, moments, step and place in the data go on
  kFromWeights,  // parameters alone: a new run
  kEvaluation,   // parameters alone: nothing is trained
};

// The shape of the model always. A branch has the optimizer, the batch and the seed of its parent,
// too: moments of another optimizer mean nothing, and with another batch or seed the samples seen
// would be others. Schedule, learning rate, decay, loss, evaluations and checkpoints may differ.
// INVALID_ARGUMENT with the field and both values.
absl::Status CheckStart(const JobConfig& parent, const JobConfig& job, StartKind kind);

// INVALID_ARGUMENT "seed is 2, the checkpoint's run has 1".
absl::Status CheckSameNumber(absl::string_view what, int64_t is, int64_t parent);

}  // namespace vitscale

#endif  // WORKER_CONFIG_START_CHECK_H_
