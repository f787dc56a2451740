// Pure decisions about generations: where state comes from, whether an old one can still step, what
// an error means, and the desired state of one rank.

#ifndef SERVER_CORE_GENERATION_H_
#define SERVER_CORE_GENERATION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/core/events.h"
#include "server/core/options.h"

namespace vitscale {

// ---- source ------------------------------------------------------------------

// Order of checkpoints: (lineage, step, attempt, generation).
bool NewerCheckpoint(const v1::CheckpointInfo& a, const v1::CheckpointInfo& b);

// The newest checkpoint that every member lists; else initialise, if nobody lists any and none is
// known to be complete (`known`, may be empty): from the seed, or, at `first_step`, from the
// checkpoint that the spec names. FAILED_PRECONDITION otherwise: the checkpoints of this job cannot
// be read by all of its workers.
absl::StatusOr<v1::Source> ChooseSource(const std::vector<const v1::ObservedState*>& members,
                                        const std::string& known, int64_t lineage,
                                        int64_t first_step = 0);
// Steps done in the state that `source` names.
int64_t SourceStep(const v1::Source& source);

// ---- fence -------------------------------------------------------------------

// What the core knows of a member of the fenced generation.
struct MemberView {
  bool same_incarnation = false;   // the worker's agent is the one that was a member
  bool device_lock_held = false;   // a newer incarnation holds the device lock
  bool ownership_expired = false;  // orphan window and margin have passed
  const v1::ObservedState* observed =
      nullptr;  // last report of the present incarnation; null: none
};
// This member's trainer passes no gate of the fenced generation again.
bool HasGivenUp(const std::string& job_id, const Fence& fence, const v1::Member& member,
                const MemberView& view);
// The fenced generation can never commit another step: one member has given up (a step needs all),
// or every member's ownership has expired.
bool FenceOpen(const std::string& job_id, const Fence& fence, const std::vector<MemberView>& views);

// ---- errors ------------------------------------------------------------------

// What a trainer's exit means.
enum class ErrorKind {
  kLeft,            // left as asked
  kUser,            // no retry
  kInfrastructure,  // retried
};
struct ErrorClass {
  ErrorKind kind = ErrorKind::kInfrastructure;
  std::string code;      // "data", "lost_rank", "killed_by_signal_9": stable
  bool symptom = false;  // the cause is probably another rank
};
ErrorClass ClassifyExit(int exit_code);

// 0 for none, then `min`, doubling to `max`.
absl::Duration Backoff(const CoreOptions& options, int fruitless);

// The job dies for ever at the same place: the newest failures have the same step and class on
// three pairwise different worker sets, or five times in all.
bool NoProgress(const google::protobuf::RepeatedPtrField<AttemptFailure>& failures);

// ---- desired state -----------------------------------------------------------

// For rank `rank` of the job's gang. `pinned`: checkpoints of the job that may not be deleted.
v1::DesiredState DesiredOf(const JobRow& row, int rank, const CoreOptions& options,
                           const std::vector<std::string>& pinned);

// "all 60 steps done"; of an evaluation: what was measured.
std::string FinishedText(const v1::Job& job);

// Length of the spec's grace; the default where it is empty.
absl::Duration GraceOf(const v1::JobSpec& spec);

}  // namespace vitscale

#endif  // SERVER_CORE_GENERATION_H_
