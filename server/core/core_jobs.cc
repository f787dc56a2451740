// The job machine: transitions, intents, and the beginning and end of attempts.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/core/convert.h"
#include "server/core/core.h"
#include "server/core/goodput.h"

namespace vitscale {
namespace {

constexpr size_t kFailureTextMax = 1000;

}  // namespace

void Core::MarkDirty(JobEntry& job) {
  if (!job.dirty) {
    job.row.set_version(job.row.version() + 1);
    job.row.mutable_job()->set_etag(absl::StrCat(job.row.version()));
  }
  job.dirty = true;
  dirty_jobs_.insert(job.row.job().id());
}

void Core::TouchMembers(const JobEntry& job) {
  for (const v1::Member& member : job.row.gang().members()) {
    if (WorkerEntry* worker = FindWorker(member.worker_id())) Touch(*worker);
  }
}

void Core::SettleGoodput(JobEntry& job) {
  *job.row.mutable_job()->mutable_goodput() = GoodputAt(job.row, now_.wall);
  job.row.set_booked_seconds(0);
  *job.row.mutable_state_since() = ToProto(now_.wall);
}

// Looks the cell up and enters the state. False, with an event, if the cell is impossible: the job
// stays as it is.
bool Core::Apply(JobEntry& job, JobEvent event, const std::string& reason,
                 const std::string& message) {
  v1::Job& row = *job.row.mutable_job();
  const auto next = NextJobState(event, row.state(), row.intent());
  if (!next.has_value()) {
    AddJobEvent(job.row, "internal_error", "system")
        .set_message(absl::StrCat("impossible: ", JobEventName(event), " in ",
                                  JobStateName(row.state()), " with intent ",
                                  IntentName(row.intent())));
    return false;
  }
  if (*next == row.state()) return true;
  SettleGoodput(job);
  v1::Event& changed = AddJobEvent(
      job.row, "state_changed", row.intent() == v1::INTENT_RUN ? "system" : job.row.intent_actor());
  if (changed.actor().name().empty()) changed.mutable_actor()->set_name("system");
  changed.set_from(row.state());
  changed.set_to(*next);
  changed.set_reason(reason);
  changed.set_message(message);
  row.set_state(*next);
  row.set_reason(reason);
  row.set_message(message);
  const std::string& id = row.id();
  IsActive(*next) ? (void)active_.insert(id) : (void)active_.erase(id);
  if (*next == v1::JOB_STATE_QUEUED) {
    *job.row.mutable_queued_since() = ToProto(now_.wall);
    row.set_intent(v1::INTENT_RUN);  // preempt and drain are served, pause was taken back
    Enqueue(job.row);
  } else {
    queued_.erase(id);
  }
  if (*next == v1::JOB_STATE_RUNNING && !row.has_start_time()) {
    *row.mutable_start_time() = ToProto(now_.wall);
  }
  if (IsTerminal(*next)) {
    *row.mutable_end_time() = ToProto(now_.wall);
    LetGo(job);
  }
  MarkDirty(job);
  TouchMembers(job);
  schedule_dirty_ = true;
  return true;
}

void Core::RaiseIntent(JobEntry& job, v1::Intent intent, const std::string& actor,
                       const std::string& reason) {
  v1::Job& row = *job.row.mutable_job();
  v1::Event& event = AddJobEvent(job.row, "intent_changed", actor);
  event.set_reason(reason);
  event.set_message(absl::StrCat(IntentName(row.intent()), " -> ", IntentName(intent)));
  row.set_intent(intent);
  job.row.set_intent_actor(actor);
  job.row.set_intent_reason(reason);
  MarkDirty(job);
  TouchMembers(job);
  const bool was_stopping = row.state() == v1::JOB_STATE_STOPPING;
  if (!Apply(job, JobEvent::kIntent, reason, absl::StrCat(IntentName(intent), " by ", actor)))
    return;
  if (row.state() != v1::JOB_STATE_STOPPING) return;
  if (!was_stopping) BeginStop(job);
  if (intent == v1::INTENT_KILL) ExitAll(job, true);
  Evaluate(job);
}

// A generation that trains is asked to save and leave; anything else just leaves, an evaluation
// too.
void Core::BeginStop(JobEntry& job) {
  const bool trains = job.row.gang().stage() == v1::STAGE_GO &&
                      job.broken_at == absl::InfiniteFuture() &&
                      job.row.job().spec().kind() != v1::JOB_KIND_EVALUATE;
  job.stop_deadline = now_.steady + (trains ? GraceOf(job.row.job().spec()) : options_.exit_grace);
  job.kill_at = absl::InfiniteFuture();
  if (!trains) ExitAll(job, false);
}

void Core::ExitAll(JobEntry& job, bool kill) {
  Gang& gang = *job.row.mutable_gang();
  if (gang.stage() == v1::STAGE_EXIT && gang.kill() == kill) return;
  gang.set_stage(v1::STAGE_EXIT);
  gang.set_kill(kill || gang.kill());
  if (gang.kill() && job.kill_at == absl::InfiniteFuture()) job.kill_at = now_.steady;
  MarkDirty(job);
  TouchMembers(job);
}

// Adds the attempt's device time to its owner's share.
void Core::Account(const JobEntry& job) {
  const Gang& gang = job.row.gang();
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now_.wall - FromProto(gang.start())));
  const std::string& name = job.row.job().owner().name();
  OwnerRow& owner = owners_[name];
  const double share = ShareOf(name);
  owner.set_name(name);
  owner.set_device_seconds(share + seconds * gang.members_size());
  *owner.mutable_time() = ToProto(now_.wall);
  changes_.owners.push_back(owner);
}

// The job gives its workers back; those whose trainer is not gone yet are releasing. Fills the
// fence's gap: if a member has left, the generation can never step again.
void Core::EndAttempt(JobEntry& job, bool kill) {
  if (!job.row.has_gang()) return;
  const Gang gang = job.row.gang();
  if (job.row.has_fence() && !FenceWait(job).has_value()) job.row.clear_fence();
  for (const v1::Member& member : gang.members()) {
    WorkerEntry* worker = FindWorker(member.worker_id());
    if (worker == nullptr || !worker->holding.has_value() ||
        worker->holding->job_id != job.row.job().id()) {
      continue;
    }
    if (MemberLeft(job, member)) {
      worker->holding.reset();
    } else {
      worker->holding->releasing = true;
      worker->holding->generation = gang.generation();
      worker->holding->kill = kill || gang.kill();
      // A kill that was wanted before keeps its time: the quarantine counts from there.
      worker->holding->kill_at =
          std::min(job.kill_at, now_.steady + (kill ? absl::ZeroDuration() : options_.exit_grace));
      SetWake(*worker, std::min(worker->wake, worker->holding->kill_at +
                                                  (worker->holding->kill ? options_.quarantine_after
                                                                         : absl::ZeroDuration())));
    }
    Touch(*worker);
    NoteState(*worker, "released");
  }
  Account(job);
  AttemptRow& attempt = changes_.attempts.emplace_back();
  attempt.set_job_id(job.row.job().id());
  attempt.set_attempt(gang.attempt());
  for (const v1::Member& member : gang.members()) attempt.add_workers(member.worker_id());
  *attempt.mutable_start() = gang.start();
  *attempt.mutable_end() = ToProto(now_.wall);
  attempt.set_reason(job.row.job().reason());
  job.row.clear_gang();
  job.row.mutable_job()->clear_workers();
  const int64_t seen = job.seen_generation;
  const bool dirty = job.dirty;
  SetWake(job, absl::InfiniteFuture());
  JobRow row = std::move(job.row);
  job = JobEntry{};
  job.row = std::move(row);
  job.dirty = dirty;
  job.seen_generation = seen;
  MarkDirty(job);
  schedule_dirty_ = true;
}

// The attempt ends and the job goes back to the queue (or on stopping, if it stops).
void Core::GiveUp(JobEntry& job, const std::string& code, const std::string& message, bool counts) {
  if (job.row.job().state() == v1::JOB_STATE_STOPPING) return ExitAll(job, true);
  const Gang& gang = job.row.gang();
  const bool progressed = gang.progressed() && code != "checkpoint_storage";
  if (counts) {
    AttemptFailure& failure = *job.row.add_failures();
    failure.set_attempt(gang.attempt());
    std::vector<std::string> workers;
    for (const v1::Member& member : gang.members()) workers.push_back(member.worker_id());
    std::sort(workers.begin(), workers.end());
    for (std::string& worker : workers) failure.add_workers(std::move(worker));
    failure.set_step(job.row.job().step());
    failure.set_error_class(code);
    failure.set_message(message.substr(0, kFailureTextMax));
    while (job.row.failures_size() > 8) job.row.mutable_failures()->DeleteSubrange(0, 1);
    job.row.set_fruitless_attempts(progressed ? 1 : job.row.fruitless_attempts() + 1);
    const absl::Duration wait = Backoff(options_, job.row.fruitless_attempts());
    *job.row.mutable_not_before() = ToProto(now_.wall + wait);
    job.row.set_avoid_worker(job.suspect);
  }
  if (counts && NoProgress(job.row.failures())) {
    return FailJob(
        job, "no_progress",
        absl::StrCat("died again and again at step ", job.row.job().step(), ": ", message));
  }
  Apply(job, JobEvent::kGivenUp, code, message);
  EndAttempt(job, true);
}

void Core::FailJob(JobEntry& job, const std::string& code, const std::string& message) {
  job.row.mutable_job()->set_failures(job.row.job().failures() + 1);
  Apply(job, JobEvent::kFailed, code, message);
  EndAttempt(job, true);
}

void Core::Place(const PlacementDecision& placement) {
  JobEntry& job = jobs_.at(placement.job_id);
  v1::Job& row = *job.row.mutable_job();
  Gang& gang = *job.row.mutable_gang();
  gang.Clear();
  row.set_attempt(row.attempt() + 1);
  row.set_generation(std::max(row.generation(), job.seen_generation) + 1);
  gang.set_attempt(row.attempt());
  gang.set_generation(row.generation());
  gang.set_stage(v1::STAGE_PREPARE);
  gang.set_secret(NewId(32));
  *gang.mutable_start() = ToProto(now_.wall);
  gang.set_first_step(row.step());
  row.clear_workers();
  for (const std::string& id : placement.workers) {
    WorkerEntry& worker = workers_.at(id);
    v1::Member& member = *gang.add_members();
    member.set_rank(gang.members_size() - 1);
    member.set_worker_id(id);
    member.set_incarnation(worker.row.worker().incarnation());
    worker.holding = Holding{row.id(), gang.attempt(), gang.generation(), member.rank()};
    worker.last_pid = 0;
    worker.counted_pid = -1;
    row.add_workers(id);
    Touch(worker);
    NoteState(worker, "placed");
  }
  ResolveNumerics(job);
  job.formed_at = now_.steady;
  job.stage_deadline = now_.steady + options_.prepare_deadline;
  const std::string text =
      absl::StrCat("attempt ", gang.attempt(), " on ", absl::StrJoin(placement.workers, ", "));
  v1::Event& event = AddJobEvent(job.row, "placed", "system");
  event.set_reason("workers_free");
  event.set_message(text);
  Apply(job, JobEvent::kPlaced, "placed", text);
  AttemptRow& attempt = changes_.attempts.emplace_back();
  attempt.set_job_id(row.id());
  attempt.set_attempt(gang.attempt());
  for (const std::string& id : placement.workers) attempt.add_workers(id);
  *attempt.mutable_start() = gang.start();
  Evaluate(job);
}

}  // namespace vitscale
