// How a checkpoint is called: "a0003.g0007.step_000001000", written by attempt 3, generation 7,
// after 1,000 steps. An orphan's emergency checkpoint ends in ".emergency". With the job id before
// it, it is a checkpoint id.

#ifndef WORKER_CHECKPOINT_CHECKPOINT_NAME_H_
#define WORKER_CHECKPOINT_CHECKPOINT_NAME_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

struct CheckpointName {
  int64_t attempt = 0;
  int64_t generation = 0;
  int64_t step = 0;  // steps done
  bool emergency = false;

  std::string Text() const;
  // INVALID_ARGUMENT for anything that Text() does not write.
  static absl::StatusOr<CheckpointName> Parse(absl::string_view text);

  bool operator==(const CheckpointName&) const = default;
};

// "<job id>/<name>".
std::string CheckpointId(absl::string_view job_id, const CheckpointName& name);

struct CheckpointIdParts {
  std::string job_id;
  CheckpointName name;
};
absl::StatusOr<CheckpointIdParts> ParseCheckpointId(absl::string_view id);

// "part-00002-of-00004.safetensors"
std::string PartFileName(int rank, int world_size);

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_CHECKPOINT_NAME_H_
