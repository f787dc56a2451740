// The stage ladder of a job's gang: prepare, form, go, exit; and the fence between two generations.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/core/convert.h"
#include "server/core/core.h"

namespace vitscale {

// ---- views -------------------------------------------------------------------

// The member's report about this attempt; null if there is none of its present incarnation.
const v1::ObservedState* Core::ObservedOf(const JobEntry& job, const v1::Member& member) const {
  const WorkerEntry* worker = FindWorker(member.worker_id());
  if (worker == nullptr || worker->row.worker().incarnation() != member.incarnation())
    return nullptr;
  const v1::ObservedState& observed = worker->observed;
  const bool about =
      observed.job_id() == job.row.job().id() && observed.attempt() == job.row.gang().attempt();
  return about ? &observed : nullptr;
}

bool Core::OwnershipExpired(const WorkerEntry* worker) const {
  return worker == nullptr ||
         now_.steady >= worker->owned_since + options_.orphan_window + options_.ownership_margin;
}

MemberView Core::ViewOf(const v1::Member& member) const {
  const WorkerEntry* worker = FindWorker(member.worker_id());
  MemberView view;
  view.ownership_expired = OwnershipExpired(worker);
  // Forgotten: only those are whose trainer is gone.
  view.device_lock_held = worker == nullptr;
  if (worker == nullptr) return view;
  view.same_incarnation = worker->row.worker().incarnation() == member.incarnation();
  view.device_lock_held = worker->row.device_lock_held() || worker->observed.device_free();
  view.observed = worker->heard ? &worker->observed : nullptr;
  return view;
}

// Nothing if the fenced generation can never step again; else when that will be so at the latest.
std::optional<absl::Time> Core::FenceWait(const JobEntry& job) const {
  if (!job.row.has_fence()) return std::nullopt;
  std::vector<MemberView> views;
  absl::Time expiry = now_.steady;
  for (const v1::Member& member : job.row.fence().members()) {
    views.push_back(ViewOf(member));
    if (const WorkerEntry* worker = FindWorker(member.worker_id())) {
      expiry = std::max(expiry,
                        worker->owned_since + options_.orphan_window + options_.ownership_margin);
    }
  }
  if (FenceOpen(job.row.job().id(), job.row.fence(), views)) return std::nullopt;
  return expiry;
}

// The member's trainer is gone for good, or the device is no longer the job's.
bool Core::MemberLeft(const JobEntry& job, const v1::Member& member) const {
  const WorkerEntry* worker = FindWorker(member.worker_id());
  if (OwnershipExpired(worker)) return true;
  if (worker->row.worker().incarnation() != member.incarnation()) {
    return worker->row.device_lock_held() || worker->observed.device_free();
  }
  if (!worker->heard) return false;
  const v1::ObservedState* observed = ObservedOf(job, member);
  if (observed != nullptr) return observed->exited();
  // Idle, or at something else: there is no trainer of ours (any more).
  return worker->observed.job_id().empty() || worker->observed.exited();
}

// ---- evaluation --------------------------------------------------------------

void Core::Evaluate(JobEntry& job) {
  if (!writable_ || !IsActive(job.row.job().state())) return;
  if (CheckFinished(job) || CheckUserErrors(job)) return;
  switch (job.row.gang().stage()) {
    case v1::STAGE_PREPARE:
      EvaluatePrepare(job);
      break;
    case v1::STAGE_FORM:
      EvaluateForm(job);
      break;
    case v1::STAGE_GO:
      EvaluateGo(job);
      break;
    default:
      EvaluateExit(job);
  }
}

bool Core::CheckFinished(JobEntry& job) {
  for (const v1::Member& member : job.row.gang().members()) {
    const v1::ObservedState* observed = ObservedOf(job, member);
    if (observed == nullptr || !observed->finished()) continue;
    v1::Job& row = *job.row.mutable_job();
    row.set_step(std::max(row.step(), observed->step()));
    if (!observed->checkpoint().empty()) row.set_checkpoint(observed->checkpoint());
    const std::string text = FinishedText(row);
    AddJobEvent(job.row, "finished", absl::StrCat("worker:", member.worker_id()))
        .set_message(row.checkpoint().empty()
                         ? text
                         : absl::StrCat(text, ", checkpoint ", row.checkpoint()));
    Apply(job, JobEvent::kFinished, "finished", text);
    EndAttempt(job, false);
    return true;
  }
  return false;
}

// A worker that could take the job and was in none of its attempts so far.
bool Core::AnotherMayHaveFolder(const JobEntry& job) const {
  std::set<std::string> tried;
  for (const v1::Member& member : job.row.gang().members()) tried.insert(member.worker_id());
  for (const AttemptFailure& failure : job.row.failures()) {
    tried.insert(failure.workers().begin(), failure.workers().end());
  }
  const v1::Device wanted = job.row.job().spec().resources().device();
  return std::any_of(workers_.begin(), workers_.end(), [&](const auto& known) {
    const auto& [id, worker] = known;
    return Admits(wanted, worker.row.worker().device().kind()) && Usable(worker) &&
           tried.count(id) == 0;
  });
}

// An error by fault of the spec or the data ends the job, whichever rank met it. But a checkpoint
// folder that one worker cannot reach may be another's: while there is one that was not tried, the
// job goes there instead.
bool Core::CheckUserErrors(JobEntry& job) {
  for (const Loss& loss : job.losses) {
    const ErrorClass error = ClassifyExit(loss.exit_code);
    // A folder that could be written once is the disk's trouble; one that never could is the
    // spec's.
    const bool never_wrote = error.code == "checkpoint_storage" && !job.row.job().has_start_time();
    if (error.kind != ErrorKind::kUser && !never_wrote) continue;
    const bool of_files = never_wrote || error.code == "data";  // a worker's own view of them
    const std::string text = loss.error.empty() ? absl::StrCat("the trainer on ", loss.worker_id,
                                                               " ended with code ", loss.exit_code)
                             : of_files ? absl::StrCat("worker ", loss.worker_id, ": ", loss.error)
                                        : loss.error;
    if (never_wrote && job.row.job().state() != v1::JOB_STATE_STOPPING &&
        AnotherMayHaveFolder(job)) {
      job.suspect = loss.worker_id;
      GiveUp(job, error.code, text, true);
    } else {
      FailJob(job, error.code, text);
    }
    return true;
  }
  return false;
}

void Core::EvaluatePrepare(JobEntry& job) {
  if (!CheckForming(job)) return;
  for (const v1::Member& member : job.row.gang().members()) {
    const v1::ObservedState* observed = ObservedOf(job, member);
    if (observed == nullptr || observed->exited() || observed->stage() < v1::STAGE_PREPARE ||
        observed->stage() > v1::STAGE_GO || observed->data_address().empty()) {
      return;
    }
  }
  job.row.mutable_gang()->set_stage(v1::STAGE_FORM);
  MarkDirty(job);
  TouchMembers(job);
}

void Core::EvaluateForm(JobEntry& job) {
  if (!CheckForming(job)) return;
  const Gang& gang = job.row.gang();
  std::vector<const v1::ObservedState*> ready;
  for (const v1::Member& member : gang.members()) {
    const v1::ObservedState* observed = ObservedOf(job, member);
    if (observed == nullptr || observed->exited() || observed->stage() != v1::STAGE_FORM ||
        observed->generation() != gang.generation() || observed->data_address().empty()) {
      return;
    }
    ready.push_back(observed);
  }
  if (const auto until = FenceWait(job)) {
    job.stage_deadline =
        *until + options_.prepare_deadline;  // waiting for the fence is nobody's fault
    return SetWake(job, std::min(job.wake, *until));
  }
  auto source = ChooseSource(ready, job.row.job().checkpoint(), job.row.job().lineage(),
                             job.row.job().first_step());
  if (!source.ok()) {
    return GiveUp(job, "checkpoint_unreadable", std::string(source.status().message()), true);
  }
  if (!job.row.job().has_numerics() && ready[0]->has_numerics()) {
    *job.row.mutable_job()->mutable_numerics() = ready[0]->numerics();
  }
  if (ready[0]->total_steps() > 0) {
    job.row.mutable_job()->set_total_steps(ready[0]->total_steps());
  }
  Go(job, *std::move(source));
}

// What PREPARE and FORM have in common. False if the job has left the stage.
bool Core::CheckForming(JobEntry& job) {
  Gang& gang = *job.row.mutable_gang();
  if (!job.losses.empty()) {
    const Loss& loss = job.losses.front();
    const ErrorClass error = ClassifyExit(loss.exit_code);
    MarkBroken(job, error.code,
               absl::StrCat("the trainer on ", loss.worker_id, " ended with code ", loss.exit_code,
                            loss.error.empty() ? "" : ": ", loss.error),
               true, now_.steady + (error.symptom ? options_.cause_wait : absl::ZeroDuration()));
  }
  for (const v1::Member& member : gang.members()) {
    const WorkerEntry* worker = FindWorker(member.worker_id());
    if (worker != nullptr && worker->row.worker().incarnation() != member.incarnation()) {
      MarkBroken(job, "lost_agent",
                 absl::StrCat("the agent of ", member.worker_id(), " was restarted"), false,
                 now_.steady);
    }
  }
  if (job.broken_at <= now_.steady) {
    ActOnBreak(job);
    return false;
  }
  if (job.broken_at != absl::InfiniteFuture()) {
    SetWake(job, job.broken_at);
    return false;
  }
  if (CheckAbsent(job)) return false;
  if (now_.steady >= job.stage_deadline) {
    const bool preparing = gang.stage() == v1::STAGE_PREPARE;
    GiveUp(job, preparing ? "prepare_deadline" : "form_deadline",
           absl::StrCat("the workers were not ready within ",
                        absl::FormatDuration(options_.prepare_deadline)),
           true);
    return false;
  }
  SetWake(job, std::min(job.wake, job.stage_deadline));
  return true;
}

// Below min: a member whose agent stays away longer than the ready deadline ends the attempt.
bool Core::CheckAbsent(JobEntry& job) {
  for (const v1::Member& member : job.row.gang().members()) {
    const WorkerEntry* worker = FindWorker(member.worker_id());
    if (worker != nullptr && worker->session != 0 && worker->reachable) continue;
    absl::Time since = job.formed_at;
    if (worker != nullptr && worker->session == 0) since = std::max(since, worker->session_closed);
    const absl::Time until = std::max(since + options_.ready_deadline, restart_grace_);
    if (now_.steady >= until) {
      GiveUp(job, "lost_worker", absl::StrCat("worker ", member.worker_id(), " is gone"), false);
      return true;
    }
    SetWake(job, std::min(job.wake, until));
  }
  return false;
}

void Core::Go(JobEntry& job, v1::Source source) {
  Gang& gang = *job.row.mutable_gang();
  for (v1::Member& member : *gang.mutable_members()) {
    member.set_data_address(ObservedOf(job, member)->data_address());
  }
  gang.set_stage(v1::STAGE_GO);
  gang.set_purpose(v1::PURPOSE_TRAIN);
  gang.set_first_step(SourceStep(source));
  const std::string& begins = job.row.job().spec().from();
  const std::string from = source.has_checkpoint() ? source.checkpoint()
                           : begins.empty()        ? "its seed"
                                                   : begins;
  *gang.mutable_source() = std::move(source);
  Fence& fence = *job.row.mutable_fence();
  fence.set_attempt(gang.attempt());
  fence.set_generation(gang.generation());
  *fence.mutable_members() = gang.members();
  job.last_advance = now_.steady;
  job.advanced_step = job.committed_step = gang.first_step();
  job.slowest_step = absl::ZeroDuration();
  job.stage_deadline = now_.steady + options_.prepare_deadline;
  AddJobEvent(job.row, "generation_formed", "system")
      .set_message(absl::StrCat("generation ", gang.generation(), " of ", gang.members_size(),
                                " ranks starts from ", from));
  MarkDirty(job);
  TouchMembers(job);
  SetWake(job, job.stage_deadline);
}

// ---- exit --------------------------------------------------------------------

void Core::EvaluateExit(JobEntry& job) { CheckStopDeadlines(job); }

// STOPPING in any stage: ends when all have left; the deadlines raise the force.
void Core::CheckStopDeadlines(JobEntry& job) {
  const Gang& gang = job.row.gang();
  const bool all_left =
      std::all_of(gang.members().begin(), gang.members().end(),
                  [&](const v1::Member& member) { return MemberLeft(job, member); });
  const bool overdue = job.kill_at != absl::InfiniteFuture() &&
                       now_.steady >= job.kill_at + options_.quarantine_after;
  if (all_left || overdue) {
    const v1::Intent intent = job.row.job().intent();
    if (intent == v1::INTENT_PREEMPT || intent == v1::INTENT_DRAIN) {
      job.row.mutable_job()->set_preemptions(job.row.job().preemptions() + 1);
    }
    if (intent == v1::INTENT_PREEMPT) *job.row.add_preempted() = ToProto(now_.wall);
    while (job.row.preempted_size() > 8) job.row.mutable_preempted()->DeleteSubrange(0, 1);
    const std::string reason =
        job.row.intent_reason().empty() ? IntentName(intent) : job.row.intent_reason();
    Apply(job, JobEvent::kLeft, reason,
          all_left ? "every worker has left" : "a worker did not leave in time");
    return EndAttempt(job, true);
  }
  if (now_.steady >= job.stop_deadline) {
    job.stop_deadline = absl::InfiniteFuture();
    AddJobEvent(job.row, "stop_deadline", "system")
        .set_message("the grace is over: trainers are killed");
    ExitAll(job, true);
  }
  absl::Time wake = job.stop_deadline;
  if (job.kill_at != absl::InfiniteFuture())
    wake = std::min(wake, job.kill_at + options_.quarantine_after);
  SetWake(job, std::min(job.wake, wake));
}

}  // namespace vitscale
