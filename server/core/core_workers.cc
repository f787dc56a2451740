// Membership: registrations, sessions, reports, leases, ownership, quarantine. A lease that runs
// out breaks nothing; it only stops new placements.

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/core/convert.h"
#include "server/core/core.h"

namespace vitscale {
namespace {

bool ValidWorkerId(const std::string& id) {
  if (id.empty() || id.size() > 63) return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

std::shared_ptr<const v1::DesiredState> Idle() {
  auto idle = std::make_shared<v1::DesiredState>();
  idle->set_stage(v1::STAGE_IDLE);
  return idle;
}

}  // namespace

Core::WorkerEntry* Core::FindWorker(const std::string& worker_id) {
  const auto it = workers_.find(worker_id);
  return it == workers_.end() ? nullptr : &it->second;
}

const Core::WorkerEntry* Core::FindWorker(const std::string& worker_id) const {
  const auto it = workers_.find(worker_id);
  return it == workers_.end() ? nullptr : &it->second;
}

void Core::Touch(WorkerEntry& worker) { touched_workers_.insert(worker.row.worker().id()); }

bool Core::Quarantined(const WorkerEntry& worker) const {
  if (!worker.row.has_quarantined_until()) return false;
  const absl::Duration left = FromProto(worker.row.quarantined_until()) - now_.wall;
  return left > absl::ZeroDuration() &&
         left <= options_.quarantine_max;  // else the wall clock was set back
}

v1::WorkerState Core::StateOf(const WorkerEntry& worker) const {
  if (worker.lost) return v1::WORKER_STATE_LOST;
  if (!worker.reachable) return v1::WORKER_STATE_UNREACHABLE;
  if (Quarantined(worker)) return v1::WORKER_STATE_QUARANTINED;
  if (worker.row.draining()) return v1::WORKER_STATE_DRAINING;
  if (!worker.holding.has_value()) return v1::WORKER_STATE_IDLE;
  return worker.holding->releasing ? v1::WORKER_STATE_RELEASING : v1::WORKER_STATE_BUSY;
}

v1::Worker Core::Describe(const WorkerEntry& entry) const {
  v1::Worker worker = entry.row.worker();
  worker.set_state(StateOf(entry));
  worker.set_rank(-1);
  worker.clear_job_id();
  if (entry.holding.has_value()) {
    worker.set_job_id(entry.holding->job_id);
    if (!entry.holding->releasing) worker.set_rank(entry.holding->rank);
  }
  *worker.mutable_heartbeat_age() = ToProto(now_.steady - entry.last_heartbeat);
  *worker.mutable_state_time() = ToProto(entry.state_since);
  return worker;
}

// Remembers since when and why a worker is in its state; the scheduler looks again.
void Core::NoteState(WorkerEntry& worker, const std::string& reason) {
  const v1::WorkerState state = StateOf(worker);
  if (state == worker.last_state) return;
  worker.last_state = state;
  worker.state_since = now_.wall;
  worker.row.mutable_worker()->set_reason(reason);
  schedule_dirty_ = true;
}

std::shared_ptr<const v1::DesiredState> Core::ComputeDesired(const WorkerEntry& worker) const {
  if (!worker.holding.has_value()) return Idle();
  const Holding& holding = *worker.holding;
  const auto it = jobs_.find(holding.job_id);
  if (!holding.releasing && it != jobs_.end() && it->second.row.has_gang()) {
    return std::make_shared<v1::DesiredState>(
        DesiredOf(it->second.row, holding.rank, options_, KeptCheckpoints(holding.job_id)));
  }
  auto exit = std::make_shared<v1::DesiredState>();
  exit->set_job_id(holding.job_id);
  exit->set_attempt(holding.attempt);
  exit->set_generation(holding.generation);
  exit->set_stage(v1::STAGE_EXIT);
  exit->set_kill(holding.kill);
  exit->set_grace_seconds(holding.kill ? 0 : absl::ToDoubleSeconds(options_.exit_grace));
  if (it != jobs_.end()) *exit->mutable_spec() = it->second.row.job().spec();
  return exit;
}

// ---- registration ------------------------------------------------------------

absl::Status Core::CheckRegistration(const v1::RegisterRequest& request) const {
  if (request.protocol_version() != v1::PROTOCOL_VERSION_1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "protocol version of worker '", request.worker_id(), "' was ", request.protocol_version(),
        ", wanted ", static_cast<int>(v1::PROTOCOL_VERSION_1),
        ": coordinator and workers must be of one version"));
  }
  if (!ValidWorkerId(request.worker_id())) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker_id was '", absl::string_view(request.worker_id()).substr(0, 64),
                     "', wanted 1 to 63 of [a-zA-Z0-9._-]"));
  }
  if (request.incarnation().empty() || request.incarnation().size() > 64) {
    return absl::InvalidArgumentError("incarnation must have 1 to 64 characters");
  }
  const WorkerEntry* known = FindWorker(request.worker_id());
  if (known == nullptr || known->row.worker().incarnation() == request.incarnation()) {
    return absl::OkStatus();
  }
  if (request.incarnation_start_millis() < known->row.incarnation_start_millis()) {
    return absl::FailedPreconditionError(
        absl::StrCat("a newer life of worker '", request.worker_id(), "' has registered"));
  }
  return absl::OkStatus();
}

void Core::On(const RegisterEvent& event) {
  if (const absl::Status status = CheckRegistration(event.request); !status.ok()) {
    return Refuse(event.token, status);
  }
  if (!writable_) {
    return Refuse(event.token,
                  absl::UnavailableError("the coordinator's store takes no changes now; retry"));
  }
  const std::string& id = event.request.worker_id();
  WorkerEntry& worker = workers_[id];
  const bool same = worker.row.worker().incarnation() == event.request.incarnation();
  if (!same) AdoptIncarnation(worker, event.request);
  if (same && event.request.device_lock_held() && !worker.row.device_lock_held()) {
    worker.row.set_device_lock_held(true);
    dirty_workers_.insert(id);
  }
  worker.lost = false;
  worker.last_heartbeat = worker.owned_since = now_.steady;
  Defer(Action(AnswerAction{event.token, absl::OkStatus(), Registered{worker.row.credential()}}));
}

// A new life of an agent: nothing of the old one's reports is true any more.
void Core::AdoptIncarnation(WorkerEntry& worker, const v1::RegisterRequest& request) {
  if (worker.session != 0) {
    out_.push_back(CloseSessionAction{
        worker.session,
        absl::FailedPreconditionError("a newer life of this worker has registered")});
    worker.session = 0;
  }
  const int quarantines = worker.row.quarantines();
  const bool fresh = worker.row.worker().id().empty();
  v1::Worker& row = *worker.row.mutable_worker();
  row.Clear();
  row.set_id(request.worker_id());
  row.set_incarnation(request.incarnation());
  *row.mutable_device() = request.device();
  row.set_host(request.host());
  row.set_version(request.version());
  row.set_metrics_address(request.metrics_address());
  worker.row.set_incarnation_start_millis(request.incarnation_start_millis());
  worker.row.set_credential(NewId(32));
  worker.row.set_data_address(request.data_address());
  worker.row.set_draining(false);
  worker.row.set_quarantines(quarantines);
  worker.row.set_device_lock_held(request.device_lock_held());
  worker.numeric_class = NumericClass(worker);
  worker.observed.Clear();
  worker.heard = worker.reported = worker.reachable = false;
  worker.last_pid = 0;
  worker.counted_pid = -1;
  worker.session_closed = now_.steady;
  if (fresh) worker.state_since = now_.wall;
  dirty_workers_.insert(request.worker_id());
  v1::Event& joined = AddEvent("worker_joined", absl::StrCat("worker:", request.worker_id()));
  joined.set_worker_id(request.worker_id());
  joined.set_message(absl::StrCat(fresh ? "joined" : "came back with a new incarnation",
                                  ", device ", request.device().name(), " on ", request.host()));
  Touch(worker);
  // A trainer of the former life is gone if the device lock could be taken.
  CheckRelease(worker);
  if (worker.holding.has_value() && !worker.holding->releasing) {
    if (const auto it = jobs_.find(worker.holding->job_id); it != jobs_.end()) Evaluate(it->second);
  }
  schedule_dirty_ = true;
}

// ---- sessions and reports ----------------------------------------------------

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
  if (news) {
    NoteState(*worker, "heartbeat");
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

// ---- time --------------------------------------------------------------------

// A releasing device becomes free when its trainer is gone, or is quarantined when that takes too
// long.
void Core::CheckRelease(WorkerEntry& worker) {
  if (!worker.holding.has_value() || !worker.holding->releasing || !writable_) return;
  Holding& holding = *worker.holding;
  const v1::ObservedState& now = worker.observed;
  const bool about_it = now.job_id() == holding.job_id && now.attempt() == holding.attempt;
  bool gone = OwnershipExpired(&worker);
  if (worker.heard) gone = gone || (about_it ? now.exited() : now.job_id().empty() || now.exited());
  if (!worker.heard && worker.row.device_lock_held()) gone = true;
  if (gone) {
    worker.holding.reset();
    worker.row.set_quarantines(0);
    Touch(worker);
    NoteState(worker, "released");
    schedule_dirty_ = true;
    return;
  }
  if (!holding.kill && now_.steady >= holding.kill_at) {
    holding.kill = true;
    holding.kill_at = now_.steady;
    Touch(worker);
  }
  if (!holding.kill) return SetWake(worker, std::min(worker.wake, holding.kill_at));
  const absl::Time limit = holding.kill_at + options_.quarantine_after;
  if (now_.steady < limit) return SetWake(worker, std::min(worker.wake, limit));
  if (worker.reachable && !Quarantined(worker)) Quarantine(worker, "not_released");
}

void Core::Quarantine(WorkerEntry& worker, const std::string& reason) {
  absl::Duration cool_down = options_.quarantine_min;
  for (int i = 0; i < worker.row.quarantines() && cool_down < options_.quarantine_max; ++i)
    cool_down *= 2;
  cool_down = std::min(cool_down, options_.quarantine_max);
  worker.row.set_quarantines(worker.row.quarantines() + 1);
  *worker.row.mutable_quarantined_until() = ToProto(now_.wall + cool_down);
  dirty_workers_.insert(worker.row.worker().id());
  v1::Event& event = AddEvent("worker_quarantined", "system");
  event.set_worker_id(worker.row.worker().id());
  event.set_reason(reason);
  event.set_message(
      absl::StrCat("its device was not free ", absl::FormatDuration(options_.quarantine_after),
                   " after the kill; comes back in ", absl::FormatDuration(cool_down)));
  NoteState(worker, reason);
  SetWake(worker, std::min(worker.wake, now_.steady + cool_down));
}

void Core::CheckLease(WorkerEntry& worker) {
  const std::string id = worker.row.worker().id();
  if (worker.row.has_quarantined_until() && !Quarantined(worker)) {
    worker.row.clear_quarantined_until();
    dirty_workers_.insert(id);
    NoteState(worker, "cooled_down");
    CheckRelease(worker);
  }
  absl::Time next = absl::InfiniteFuture();
  if (worker.row.has_quarantined_until()) {
    next = now_.steady + (FromProto(worker.row.quarantined_until()) - now_.wall);
  }
  const absl::Time lease_end = std::max(worker.last_heartbeat + options_.lease, restart_grace_);
  const absl::Time lost_at =
      worker.owned_since + options_.orphan_window + options_.ownership_margin;
  if (now_.steady < lease_end) {
    next = std::min(next, lease_end);
  } else if (worker.reachable || worker.last_state != v1::WORKER_STATE_UNREACHABLE) {
    if (!worker.lost) {
      worker.reachable = false;
      if (worker.last_state != v1::WORKER_STATE_UNREACHABLE || worker.heard) {
        v1::Event& event = AddEvent("worker_unreachable", "system");
        event.set_worker_id(id);
        event.set_reason("no_heartbeat");
        event.set_message(absl::StrCat("no heartbeat for ", absl::FormatDuration(options_.lease)));
        dirty_workers_.insert(id);
      }
      NoteState(worker, "no_heartbeat");
    }
  }
  if (!worker.lost && now_.steady >= lease_end) {
    if (now_.steady >= lost_at) {
      worker.lost = true;
      dirty_workers_.insert(id);
      v1::Event& event = AddEvent("worker_lost", "system");
      event.set_worker_id(id);
      event.set_reason("no_heartbeat");
      event.set_message("no heartbeat for the orphan window: its device is no longer counted");
      NoteState(worker, "no_heartbeat");
    } else {
      next = std::min(next, lost_at);
    }
  }
  if (worker.lost && !worker.holding.has_value()) {
    const absl::Time forget = worker.last_heartbeat + options_.forget_worker;
    if (now_.steady >= forget) {
      SetWake(worker, absl::InfiniteFuture());
      changes_.removed_workers.push_back(id);
      dirty_workers_.erase(id);
      workers_.erase(id);
      return;
    }
    next = std::min(next, forget);
  }
  SetWake(worker, std::min(worker.wake, next));
  if (worker.holding.has_value() && !worker.holding->releasing && now_.steady >= lease_end) {
    if (const auto it = jobs_.find(worker.holding->job_id); it != jobs_.end()) Evaluate(it->second);
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
