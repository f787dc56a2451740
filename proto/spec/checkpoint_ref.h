// How a job names the checkpoint that it starts from: JobSpec.from.
//
//   "<dir>/<job id>/<checkpoint name>"   complete: a folder below a checkpoint root of the workers
//   "<job>/<checkpoint name>"            of a job that the coordinator knows, by id or name
//   "<job>"                              the same, its newest checkpoint
//
// Only the first form reaches a worker; the coordinator completes the others on submission.

#ifndef PROTO_SPEC_CHECKPOINT_REF_H_
#define PROTO_SPEC_CHECKPOINT_REF_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

struct CheckpointRef {
  std::string dir;   // as in checkpoint.dir; empty: not given
  std::string job;   // its folder in `dir`: an id
  std::string name;  // "a0003.g0007.step_000001000"; empty: the newest
  int64_t step = 0;  // steps done, from `name`

  bool complete() const { return !dir.empty(); }
  std::string id() const;    // "<job>/<name>"
  std::string Text() const;  // in the form in which it was given
};

// INVALID_ARGUMENT for anything else, an empty part, "." and ".." included; says what was wanted.
absl::StatusOr<CheckpointRef> ParseCheckpointRef(absl::string_view text);

}  // namespace vitscale

#endif  // PROTO_SPEC_CHECKPOINT_REF_H_
