#include "server/core/generation.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vitscale/v1/trainer_link.pb.h"

namespace vitscale {
namespace {

auto OrderOf(const v1::CheckpointInfo& info) {
  return std::make_tuple(info.lineage(), info.step(), info.attempt(), info.generation());
}

bool Lists(const v1::ObservedState& observed, const std::string& id) {
  for (const auto& checkpoint : observed.checkpoints()) {
    if (checkpoint.id() == id) return true;
  }
  return false;
}

bool AllList(const std::vector<const v1::ObservedState*>& members, const std::string& id) {
  return std::all_of(members.begin(), members.end(),
                     [&](const v1::ObservedState* observed) { return Lists(*observed, id); });
}

v1::Source FromCheckpoint(const v1::CheckpointInfo& info) {
  v1::Source source;
  source.set_checkpoint(info.id());
  source.mutable_version()->set_step(info.step());
  source.mutable_version()->set_lineage(info.lineage());
  return source;
}

v1::Source FromTheStart(int64_t lineage, int64_t first_step) {
  v1::Source source;
  source.set_initialise(true);
  source.mutable_version()->set_step(first_step);
  source.mutable_version()->set_lineage(lineage);
  return source;
}

}  // namespace

bool NewerCheckpoint(const v1::CheckpointInfo& a, const v1::CheckpointInfo& b) {
  return OrderOf(a) > OrderOf(b);
}

absl::StatusOr<v1::Source> ChooseSource(const std::vector<const v1::ObservedState*>& members,
                                        const std::string& known, int64_t lineage,
                                        int64_t first_step) {
  const v1::CheckpointInfo* best = nullptr;
  bool any = !known.empty();
  for (const v1::ObservedState* observed : members) {
    for (const auto& checkpoint : observed->checkpoints()) {
      any = true;
      if (checkpoint.deleted() || !AllList(members, checkpoint.id())) continue;
      if (best == nullptr || NewerCheckpoint(checkpoint, *best)) best = &checkpoint;
    }
  }
  if (best != nullptr) return FromCheckpoint(*best);
  if (!any) return FromTheStart(lineage, first_step);
  return absl::FailedPreconditionError(absl::StrCat(
      "the job has checkpoints", known.empty() ? "" : absl::StrCat(" (newest '", known, "')"),
      ", but there is none that every worker can read: is checkpoint.dir shared?"));
}

int64_t SourceStep(const v1::Source& source) { return source.version().step(); }

bool HasGivenUp(const std::string& job_id, const Fence& fence, const v1::Member& member,
                const MemberView& view) {
  if (!view.same_incarnation) return view.device_lock_held;
  if (view.observed == nullptr) return false;
  const v1::ObservedState& observed = *view.observed;
  // One device runs one trainer at a time: a report about anything else means that ours was reaped.
  if (observed.job_id() != job_id || observed.attempt() > fence.attempt()) return true;
  if (observed.attempt() < fence.attempt()) return false;
  // Promising g gives up all below g.
  if (observed.exited() || observed.promised_generation() > fence.generation()) return true;
  // A restarted trainer has another listener.
  return !observed.data_address().empty() && !member.data_address().empty() &&
         observed.data_address() != member.data_address();
}

bool FenceOpen(const std::string& job_id, const Fence& fence,
               const std::vector<MemberView>& views) {
  if (fence.members().empty()) return true;
  bool all_expired = true;
  for (int i = 0; i < fence.members_size(); ++i) {
    if (HasGivenUp(job_id, fence, fence.members(i), views[i])) return true;
    all_expired = all_expired && views[i].ownership_expired;
  }
  return all_expired;
}

ErrorClass ClassifyExit(int exit_code) {
  switch (exit_code) {
    case v1::TRAINER_EXIT_DONE:
    case v1::TRAINER_EXIT_PREEMPTED_SAVED:
    case v1::TRAINER_EXIT_PREEMPTED_UNSAVED:
      return {ErrorKind::kLeft, "left"};
    case v1::TRAINER_EXIT_CONFIGURATION:
      return {ErrorKind::kUser, "bad_configuration"};
    case v1::TRAINER_EXIT_DATA:
      return {ErrorKind::kUser, "data"};
    case v1::TRAINER_EXIT_NON_FINITE:
      return {ErrorKind::kUser, "diverged"};
    case v1::TRAINER_EXIT_NO_PROGRESS:
      return {ErrorKind::kUser, "no_progress"};
    case v1::TRAINER_EXIT_COLLECTIVE:
      return {ErrorKind::kInfrastructure, "lost_rank", true};
    case v1::TRAINER_EXIT_DEVICE:
      return {ErrorKind::kInfrastructure, "device"};
    case v1::TRAINER_EXIT_STORAGE:
      return {ErrorKind::kInfrastructure, "checkpoint_storage"};
    case v1::TRAINER_EXIT_FENCED:
      return {ErrorKind::kInfrastructure, "fenced", true};
    default:
      if (exit_code > 128) {
        return {ErrorKind::kInfrastructure, absl::StrCat("killed_by_signal_", exit_code - 128)};
      }
      return {ErrorKind::kInfrastructure, absl::StrCat("exit_code_", exit_code)};
  }
}

absl::Duration Backoff(const CoreOptions& options, int fruitless) {
  if (fruitless <= 0) return absl::ZeroDuration();
  absl::Duration wait = options.backoff_min;
  for (int i = 1; i < fruitless && wait < options.backoff_max; ++i) wait *= 2;
  return std::min(wait, options.backoff_max);
}

bool NoProgress(const google::protobuf::RepeatedPtrField<AttemptFailure>& failures) {
  if (failures.empty()) return false;
  const AttemptFailure& newest = *failures.rbegin();
  std::set<std::string> sets;
  int same = 0;
  for (auto it = failures.rbegin(); it != failures.rend(); ++it) {
    if (it->step() != newest.step() || it->error_class() != newest.error_class()) break;
    ++same;
    sets.insert(absl::StrJoin(it->workers(), ","));
  }
  return sets.size() >= 3 || same >= 5;
}

std::string FinishedText(const v1::Job& job) {
  if (job.spec().kind() != v1::JOB_KIND_EVALUATE) {
    return absl::StrCat("all ", job.step(), " steps done");
  }
  return absl::StrCat(job.spec().evals_size(), " evaluations of ", job.spec().from(), " done");
}

absl::Duration GraceOf(const v1::JobSpec& spec) {
  absl::Duration grace;
  if (spec.grace().empty() || !absl::ParseDuration(spec.grace(), &grace)) {
    return absl::Seconds(120);
  }
  return grace;
}

v1::DesiredState DesiredOf(const JobRow& row, int rank, const CoreOptions& options,
                           const std::vector<std::string>& pinned) {
  const v1::Job& job = row.job();
  const Gang& gang = row.gang();
  v1::DesiredState desired;
  desired.set_job_id(job.id());
  desired.set_attempt(gang.attempt());
  desired.set_generation(gang.generation());
  desired.set_stage(gang.stage());
  desired.set_rank(rank);
  *desired.mutable_spec() = job.spec();
  if (job.has_numerics()) *desired.mutable_numerics() = job.numerics();
  // A job that was resumed while it stops still has to stop.
  const bool resumed = job.state() == v1::JOB_STATE_STOPPING && job.intent() == v1::INTENT_RUN;
  desired.set_intent(resumed ? v1::INTENT_PAUSE : job.intent());
  desired.set_lineage(job.lineage());
  desired.set_instruction_set(gang.instruction_set());
  desired.set_precision(gang.precision());
  for (const std::string& id : pinned) desired.add_pinned_checkpoints(id);
  if (gang.stage() == v1::STAGE_FORM || gang.stage() == v1::STAGE_GO) {
    *desired.mutable_members() = gang.members();
    desired.mutable_rendezvous()->set_secret(gang.secret());
    desired.mutable_rendezvous()->set_deadline_seconds(
        absl::ToDoubleSeconds(options.rendezvous_deadline));
  }
  if (gang.stage() == v1::STAGE_GO) {
    *desired.mutable_source() = gang.source();
    desired.set_purpose(gang.purpose());
    desired.set_grace_seconds(absl::ToDoubleSeconds(GraceOf(job.spec())));
  }
  if (gang.stage() == v1::STAGE_EXIT) {
    desired.set_kill(gang.kill());
    desired.set_grace_seconds(gang.kill() ? 0 : absl::ToDoubleSeconds(options.exit_grace));
  }
  return desired;
}

}  // namespace vitscale
