// Sessions of agents and what they report: observed states, progress, spooled records.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/core/convert.h"
#include "server/core/core.h"
#include "server/core/device_claims.h"

namespace vitscale {
namespace {

// Events are kept for ever: somebody who comes and goes on a card must not fill the store.
constexpr absl::Duration kTellAgain = absl::Minutes(1);

}  // namespace

void Core::On(const SessionOpenedEvent& event) {
  WorkerEntry* worker = FindWorker(event.worker_id);
  if (worker == nullptr || worker->row.worker().incarnation() != event.incarnation) {
    out_.push_back(CloseSessionAction{
        event.session,
        absl::UnauthenticatedError("the credential is of a former life: register again")});
    return;
  }
  if (worker->session != 0 && worker->session != event.session) {
    out_.push_back(CloseSessionAction{worker->session,
                                      absl::UnavailableError("the agent opened a newer session")});
  }
  worker->session = event.session;
  worker->reported = false;
}

void Core::On(const SessionClosedEvent& event) {
  WorkerEntry* worker = FindWorker(event.worker_id);
  if (worker == nullptr || worker->session != event.session) return;
  worker->session = 0;
  worker->reported = false;
  worker->session_closed = now_.steady;
  SetWake(*worker, std::min(worker->wake, worker->last_heartbeat + options_.lease));
  if (worker->holding.has_value() && !worker->holding->releasing) {
    if (const auto it = jobs_.find(worker->holding->job_id); it != jobs_.end())
      Evaluate(it->second);
  }
  schedule_dirty_ = true;
  if (LeftInOrder(*worker)) SayLeft(*worker);
}

void Core::On(const ReportEvent& event) {
  WorkerEntry* worker = FindWorker(event.worker_id);
  if (worker == nullptr || worker->session != event.session) return;
  if (event.term > term_) {
    out_.push_back(CloseSessionAction{
        event.session,
        absl::UnavailableError(absl::StrCat("the worker has seen term ", event.term,
                                            ", this coordinator is of term ", term_))});
    return;
  }
  const v1::ObservedState before = std::move(worker->observed);
  worker->observed = event.observed;
  if (worker->observed.has_device_use()) CleanDeviceUse(*worker->observed.mutable_device_use());
  worker->last_heartbeat = worker->owned_since = now_.steady;
  const bool news = !worker->reachable || !worker->reported;
  worker->reachable = worker->reported = worker->heard = true;
  worker->lost = false;
  NoteTrainer(*worker, before);
  NoteProgress(*worker);
  if (writable_) {
    NoteHolding(*worker);
    if (event.observed.draining() && !worker->row.draining()) {
      SetDraining(*worker, true, absl::StrCat("worker:", event.worker_id));
    }
    CheckRelease(*worker);
  }
  NoteDeviceUse(*worker, before);
  if (news) {
    NoteState(*worker, Dirty(*worker) ? "foreign_process" : "heartbeat");
    schedule_dirty_ = true;
    SetWake(*worker, std::min(worker->wake, now_.steady + options_.lease));
  }
  if (worker->holding.has_value() && !worker->holding->releasing) {
    if (const auto it = jobs_.find(worker->holding->job_id); it != jobs_.end())
      Evaluate(it->second);
  }
  const bool refused =
      worker->released != nullptr && event.observed.job_id() == worker->released->job_id() &&
      event.observed.attempt() < worker->released->attempt() && !event.observed.job_id().empty();
  out_.push_back(SendAction{event.session, event.message_number, refused, worker->released});
}

// Somebody has come to use a card, or has left it.
void Core::NoteDeviceUse(WorkerEntry& worker, const v1::ObservedState& before) {
  // The first look at a card makes it usable.
  if (worker.observed.has_device_use() != before.has_device_use()) schedule_dirty_ = true;
  const std::string& dirty = worker.observed.device_use().dirty();
  if (dirty.empty() == before.device_use().dirty().empty()) return;
  const std::string& id = worker.row.worker().id();
  absl::Time& told = dirty.empty() ? worker.told_clean : worker.told_dirty;
  if (writable_ && now_.steady - told >= kTellAgain) {
    told = now_.steady;
    v1::Event& event =
        AddEvent(dirty.empty() ? "device_clean" : "device_dirty", absl::StrCat("worker:", id));
    event.set_worker_id(id);
    event.set_message(dirty.empty() ? "nobody else uses the card any more" : dirty);
  }
  NoteState(worker, dirty.empty() ? "clean" : "foreign_process");
  schedule_dirty_ = true;
  Touch(worker);
}

// Deaths are edges: a trainer is known by its process id, and counted once.
void Core::NoteTrainer(WorkerEntry& worker, const v1::ObservedState& before) {
  const v1::ObservedState& now = worker.observed;
  if (!worker.holding.has_value() || worker.holding->releasing ||
      now.job_id() != worker.holding->job_id || now.attempt() != worker.holding->attempt) {
    return;
  }
  if (before.exited() && !now.exited()) {  // the next trainer
    worker.last_pid = 0;
    worker.counted_pid = -1;
  }
  const bool replaced =
      now.trainer_pid() != 0 && worker.last_pid != 0 && now.trainer_pid() != worker.last_pid;
  const bool exited = now.exited() && (worker.last_pid != 0 || !before.exited());
  if ((replaced || exited) && worker.counted_pid != worker.last_pid) {
    worker.counted_pid = worker.last_pid;
    const auto it = jobs_.find(now.job_id());
    if (it != jobs_.end()) {
      // Of a trainer whose end was not told only the successor is known.
      const int exit_code = now.exited() ? now.exit_code() : 128 + 9;
      it->second.losses.push_back(
          {worker.holding->rank, worker.row.worker().id(), exit_code, now.error()});
    }
  }
  if (now.trainer_pid() != 0 && !now.exited()) {
    if (worker.last_pid != now.trainer_pid()) worker.counted_pid = -1;
    worker.last_pid = now.trainer_pid();
  }
}

// A step needs every member: the progress of one renews the ownership of all.
void Core::NoteProgress(WorkerEntry& worker) {
  const v1::ObservedState& now = worker.observed;
  const auto it = jobs_.find(now.job_id());
  if (it == jobs_.end() || !worker.holding.has_value() || worker.holding->job_id != now.job_id())
    return;
  JobEntry& job = it->second;
  job.seen_generation = std::max(job.seen_generation, now.generation());
  const Gang& gang = job.row.gang();
  if (now.attempt() != gang.attempt() || now.generation() != gang.generation() ||
      gang.stage() != v1::STAGE_GO || now.stage() != v1::STAGE_GO) {
    return;
  }
  // Known only since the ranks have met.
  const std::string& collective = now.numerics().collective();
  if (!collective.empty() && job.row.job().numerics().collective() != collective) {
    job.row.mutable_job()->mutable_numerics()->set_collective(collective);
    MarkDirty(job);
  }
  job.committed_step = std::max(job.committed_step, now.committed_step());
  if (now.step() <= job.advanced_step) return;
  const absl::Duration per_step =
      (now_.steady - job.last_advance) / (now.step() - job.advanced_step);
  // A slow maximum that forgets: the first steps of a process would otherwise rule for ever.
  job.slowest_step = std::max(per_step, job.slowest_step * 0.98);
  job.advanced_step = now.step();
  job.last_advance = now_.steady;
  for (const v1::Member& member : gang.members()) {
    WorkerEntry* other = FindWorker(member.worker_id());
    if (other != nullptr && other->row.worker().incarnation() == member.incarnation()) {
      other->owned_since = now_.steady;
    }
  }
}

// The attempt was over for us, but its trainers had finished: that beats the queue and a pause.
void Core::LateVerdict(JobEntry& job, const v1::ObservedState& observed) {
  v1::Job& row = *job.row.mutable_job();
  if (!observed.finished() || observed.attempt() != row.attempt() || IsActive(row.state()) ||
      IsTerminal(row.state())) {
    return;
  }
  row.set_step(std::max(row.step(), observed.step()));
  if (!observed.checkpoint().empty()) row.set_checkpoint(observed.checkpoint());
  Apply(job, JobEvent::kFinished, "finished", FinishedText(row));
}

// What an agent does without our asking: left over from a former attempt or a former life of the
// coordinator.
void Core::NoteHolding(WorkerEntry& worker) {
  const v1::ObservedState& now = worker.observed;
  if (now.job_id().empty() || now.exited()) return;
  const auto it = jobs_.find(now.job_id());
  if (it != jobs_.end())
    it->second.seen_generation = std::max(it->second.seen_generation, now.generation());
  if (it != jobs_.end()) LateVerdict(it->second, now);
  if (worker.holding.has_value()) return;
  const bool succeeded =
      it != jobs_.end() && it->second.row.job().state() == v1::JOB_STATE_SUCCEEDED;
  worker.holding = Holding{now.job_id(),
                           now.attempt(),
                           now.generation(),
                           -1,
                           true,
                           !succeeded,
                           now_.steady + (succeeded ? options_.exit_grace : absl::ZeroDuration())};
  SetWake(worker,
          std::min(worker.wake, worker.holding->kill ? now_.steady + options_.quarantine_after
                                                     : worker.holding->kill_at));
  Touch(worker);
  NoteState(worker, "left_over");
}

void Core::SetDraining(WorkerEntry& worker, bool draining, const std::string& actor) {
  if (worker.row.draining() == draining) return;
  worker.row.set_draining(draining);
  dirty_workers_.insert(worker.row.worker().id());
  v1::Event& event = AddEvent(draining ? "worker_draining" : "worker_undrained", actor);
  event.set_worker_id(worker.row.worker().id());
  event.set_message(draining ? "takes nothing new; its job leaves" : "takes jobs again");
  NoteState(worker, "operator");
  if (!draining || !worker.holding.has_value() || worker.holding->releasing) return;
  const auto it = jobs_.find(worker.holding->job_id);
  if (it == jobs_.end()) return;
  const v1::Job& job = it->second.row.job();
  if (CompareIntent(job.state(), job.intent(), v1::INTENT_DRAIN) == IntentChange::kChange) {
    RaiseIntent(it->second, v1::INTENT_DRAIN, actor, "worker_drained");
  }
}

// ---- spooled records ---------------------------------------------------------

void Core::RecordCheckpoint(const v1::CheckpointInfo& info, const v1::SpooledRecord& record) {
  const auto it = jobs_.find(record.job_id());
  if (it == jobs_.end()) return;
  v1::CheckpointInfo stored = info;
  const auto pins = pinned_.find(record.job_id());
  stored.set_pinned(pins != pinned_.end() && pins->second.count(info.id()) != 0);
  changes_.checkpoints.push_back(stored);
  if (info.deleted()) return;
  LetGo(it->second);  // from now on it begins with its own
  v1::Job& job = *it->second.row.mutable_job();
  job.set_checkpoint(info.id());
  MarkDirty(it->second);
  v1::Event& event = AddJobEvent(it->second.row, "checkpoint_saved", "system");
  event.set_attempt(info.attempt());
  event.set_generation(info.generation());
  event.set_step(info.step());
  event.set_message(absl::StrCat(info.id(), ", ", info.bytes(), " bytes"));
}

void Core::On(const RecordsEvent& event) {
  // Facts, not decisions: they may wait in the store's queue.
  for (const v1::SpooledRecord& record : event.records) {
    if (record.has_checkpoint()) RecordCheckpoint(record.checkpoint(), record);
    if (!record.has_event()) continue;
    v1::Event& stored = changes_.events.emplace_back(record.event());
    stored.mutable_actor()->set_name(absl::StrCat("worker:", event.worker_id));
    stored.set_worker_id(event.worker_id);
    stored.set_job_id(record.job_id());
    if (!stored.has_time()) *stored.mutable_time() = ToProto(now_.wall);
  }
  changes_.marks.insert(changes_.marks.end(), event.marks.begin(), event.marks.end());
  if (event.token != 0) Defer(Action(AnswerAction{event.token, absl::OkStatus(), {}}));
}

}  // namespace vitscale
