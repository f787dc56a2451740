// A generation at work: what breaks it, and the next one.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/core/convert.h"
#include "server/core/core.h"

namespace vitscale {

void Core::EvaluateGo(JobEntry& job) {
  NoticeBreak(job);
  if (job.broken_at <= now_.steady) return ActOnBreak(job);
  if (job.broken_at != absl::InfiniteFuture()) SetWake(job, std::min(job.wake, job.broken_at));
  const Gang& gang = job.row.gang();
  for (const v1::Member& member : gang.members()) {
    const v1::ObservedState* observed = ObservedOf(job, member);
    if (observed == nullptr || observed->generation() != gang.generation() ||
        observed->stage() != v1::STAGE_GO) {
      continue;
    }
    if (job.row.job().state() == v1::JOB_STATE_RUNNING) return;
    Apply(job, JobEvent::kTraining, "training",
          absl::StrCat("generation ", gang.generation(), " trains"));
    break;
  }
  if (job.row.job().state() == v1::JOB_STATE_STOPPING) return CheckStopDeadlines(job);
  if (job.row.job().state() == v1::JOB_STATE_RUNNING) return;
  if (now_.steady >= job.stage_deadline) {
    return GiveUp(job, "go_deadline", "the generation did not begin to train in time", true);
  }
  SetWake(job, std::min(job.wake, job.stage_deadline));
}

// Signs that this generation cannot step any more.
void Core::NoticeBreak(JobEntry& job) {
  const Gang& gang = job.row.gang();
  for (const Loss& loss : job.losses) {
    const ErrorClass error = ClassifyExit(loss.exit_code);
    if (error.kind == ErrorKind::kLeft && job.row.job().state() == v1::JOB_STATE_STOPPING) {
      // Leaving ends with a barrier: who has left in good order has seen all others save.
      if (gang.stage() == v1::STAGE_GO) {
        job.stop_deadline = std::min(job.stop_deadline, now_.steady + options_.exit_grace);
        ExitAll(job, false);
      }
      continue;
    }
    MarkBroken(job, error.code,
               absl::StrCat("the trainer on ", loss.worker_id, " ended with code ", loss.exit_code,
                            loss.error.empty() ? "" : ": ", loss.error),
               true, now_.steady + (error.symptom ? options_.cause_wait : absl::ZeroDuration()));
    if (!error.symptom) job.suspect = loss.worker_id;
  }
  bool any_reachable = false;
  const v1::Member* unreachable = nullptr;
  for (const v1::Member& member : gang.members()) {
    const WorkerEntry* worker = FindWorker(member.worker_id());
    if (worker != nullptr && worker->row.worker().incarnation() != member.incarnation()) {
      MarkBroken(job, "lost_agent",
                 absl::StrCat("the agent of ", member.worker_id(), " was restarted"), false,
                 now_.steady);
      continue;
    }
    if (worker == nullptr || !worker->reachable) {
      unreachable = &member;
    } else {
      any_reachable = true;
    }
    const v1::ObservedState* observed = ObservedOf(job, member);
    if (observed == nullptr) continue;
    if (observed->collective_failed() && observed->generation() == gang.generation()) {
      std::string text = absl::StrCat("the collective of ", member.worker_id(), " failed");
      if (observed->suspects_size() > 0 && observed->suspects(0) < gang.members_size() &&
          observed->suspects(0) >= 0) {
        job.suspect = gang.members(observed->suspects(0)).worker_id();
        absl::StrAppend(&text, ", suspect ", job.suspect);
      }
      MarkBroken(job, "collective_failed", text, true, now_.steady + options_.cause_wait);
    }
    // A restarted trainer has another listener than the one that was told to the others.
    if (!observed->exited() && !observed->data_address().empty() &&
        observed->data_address() != member.data_address()) {
      MarkBroken(job, "lost_trainer",
                 absl::StrCat("the trainer on ", member.worker_id(), " was replaced"), true,
                 now_.steady);
    }
    if (observed->generation() > gang.generation()) {
      MarkBroken(job, "stale_generation",
                 absl::StrCat(member.worker_id(), " knows generation ", observed->generation()),
                 false, now_.steady);
    }
  }
  if (unreachable == nullptr) return;
  if (now_.steady < restart_grace_) return SetWake(job, std::min(job.wake, restart_grace_));
  if (!any_reachable) {
    // A coordinator that hears of nobody is the one that is cut off, until the ownership has run
    // out.
    const WorkerEntry* worker = FindWorker(unreachable->worker_id());
    if (OwnershipExpired(worker)) {
      MarkBroken(job, "lost_worker", absl::StrCat("worker ", unreachable->worker_id(), " is lost"),
                 false, now_.steady);
    } else {
      SetWake(job, std::min(job.wake, worker->owned_since + options_.orphan_window +
                                          options_.ownership_margin));
    }
    return;
  }
  const absl::Time until =
      job.last_advance + std::max(options_.advance_deadline, 3 * job.slowest_step);
  if (now_.steady >= until) {
    MarkBroken(
        job, "worker_unreachable",
        absl::StrCat("worker ", unreachable->worker_id(), " is unreachable and no member advances"),
        false, now_.steady);
  } else {
    SetWake(job, std::min(job.wake, until));
  }
}

// The first sign starts the wait for the cause; a cause ends it and replaces a symptom's words.
void Core::MarkBroken(JobEntry& job, const std::string& code, const std::string& text, bool counts,
                      absl::Time act_at) {
  if (act_at >= job.broken_at) return;
  job.broken_at = act_at;
  job.broken_code = code;
  job.broken_text = text;
  job.broken_counts = counts;
}

void Core::ActOnBreak(JobEntry& job) {
  Gang& gang = *job.row.mutable_gang();
  v1::Event& event = AddJobEvent(job.row, "generation_broken", "system");
  event.set_reason(job.broken_code);
  event.set_message(job.broken_text);
  if (!job.suspect.empty()) event.set_worker_id(job.suspect);
  const bool went = gang.stage() == v1::STAGE_GO;
  const std::string code = job.broken_code, text = job.broken_text;
  // Steps that cannot be saved are no progress: they would be trained again and again.
  const bool stepped =
      went && code != "checkpoint_storage" && job.committed_step > gang.first_step();
  const bool counts = job.broken_counts;
  job.broken_at = absl::InfiniteFuture();
  job.losses.clear();
  MarkDirty(job);
  if (job.row.job().state() == v1::JOB_STATE_STOPPING) {
    // Saving needs all ranks; the newest checkpoint has to do.
    job.stop_deadline = std::min(job.stop_deadline, now_.steady + options_.exit_grace);
    ExitAll(job, false);
    return EvaluateExit(job);
  }
  if (stepped) gang.set_progressed(true);
  gang.set_fruitless_generations(stepped ? 0 : gang.fruitless_generations() + (counts ? 1 : 0));
  if (gang.fruitless_generations() >= 2) return GiveUp(job, code, text, true);
  if (went && job.row.job().state() == v1::JOB_STATE_RUNNING) {
    job.row.mutable_job()->set_recoveries(job.row.job().recoveries() + 1);
  }
  Apply(job, JobEvent::kBroken, code, text);
  NewGeneration(job);
}

// The same workers form again. A break needs no back-off.
void Core::NewGeneration(JobEntry& job) {
  Gang& gang = *job.row.mutable_gang();
  v1::Job& row = *job.row.mutable_job();
  row.set_generation(std::max(row.generation(), job.seen_generation) + 1);
  gang.set_generation(row.generation());
  gang.set_stage(v1::STAGE_FORM);
  gang.set_secret(NewId(32));
  gang.clear_source();
  gang.clear_purpose();
  for (v1::Member& member : *gang.mutable_members()) {
    member.clear_data_address();
    WorkerEntry* worker = FindWorker(member.worker_id());
    if (worker == nullptr) continue;
    member.set_incarnation(worker->row.worker().incarnation());
    if (worker->holding.has_value() && worker->holding->job_id == row.id()) {
      worker->holding->generation = gang.generation();
    }
  }
  job.formed_at = now_.steady;
  job.stage_deadline = now_.steady + options_.prepare_deadline;
  MarkDirty(job);
  TouchMembers(job);
  SetWake(job, now_.steady);  // judged again at once, with the members' present reports
}

}  // namespace vitscale
