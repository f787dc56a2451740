#include "server/core/core.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/core/convert.h"

namespace vitscale {

Core::Core(CoreOptions options, Random& random, LoadedState state, Moment now)
    : options_(options),
      random_(random),
      term_(state.term),
      now_(now),
      restart_grace_(now.steady + options.lease),
      next_number_(state.last_job_number + 1) {
  for (OwnerRow& owner : state.owners) owners_[owner.name()] = owner;
  for (const v1::CheckpointInfo& info : state.pinned) {
    pinned_[info.id().substr(0, info.id().find('/'))].insert(info.id());
  }
  for (WorkerRow& row : state.workers) {
    WorkerEntry& worker = workers_[row.worker().id()];
    worker.row = std::move(row);
    worker.state_since = now.wall;
    // Nobody is declared dead, and no device free, before it had time to report.
    worker.last_heartbeat = worker.owned_since = worker.session_closed = now.steady;
    worker.lost = worker.row.worker().state() == v1::WORKER_STATE_LOST;
    SetWake(worker, restart_grace_);
  }
  for (JobRow& row : state.jobs) {
    const std::string id = row.job().id();
    JobEntry& job = jobs_[id];
    job.row = std::move(row);
    if (!job.row.held_checkpoint().empty()) Hold(job.row.held_checkpoint());
    if (job.row.job().state() == v1::JOB_STATE_QUEUED) Enqueue(job.row);
    if (!IsActive(job.row.job().state())) continue;
    active_.insert(id);
    job.formed_at = job.last_advance = now.steady;
    job.committed_step = job.row.job().step();
    job.stage_deadline = now.steady + options_.lease + options_.prepare_deadline;
    if (job.row.job().state() == v1::JOB_STATE_STOPPING) {
      job.stop_deadline = now.steady + options_.lease + GraceOf(job.row.job().spec());
      if (job.row.gang().kill()) job.kill_at = restart_grace_;
    }
    for (const v1::Member& member : job.row.gang().members()) {
      WorkerEntry& worker = workers_[member.worker_id()];
      worker.row.mutable_worker()->set_id(member.worker_id());
      worker.holding =
          Holding{id, job.row.gang().attempt(), job.row.gang().generation(), member.rank()};
    }
    SetWake(job, restart_grace_);
  }
  for (auto& [id, worker] : workers_) {
    worker.numeric_class = NumericClassOf(worker.row.worker());
    worker.wanted = worker.released = ComputeDesired(worker);
    worker.last_state = StateOf(worker);
  }
}

std::vector<Action> Core::Handle(const Event& event, Moment now) {
  now_ = now;
  out_.clear();
  std::visit([this](const auto& concrete) { On(concrete); }, event);
  RunWakes();
  Finish();
  return std::move(out_);
}

void Core::On(const TickEvent&) {}

void Core::On(const CommittedEvent& event) { ReleaseUpTo(event.id); }

void Core::On(const StoreStateEvent& event) {
  if (writable_ == event.writable) return;
  writable_ = event.writable;
  if (!writable_) return;
  // What was observed meanwhile is judged now.
  for (const std::string& id : std::set<std::string>(active_)) Evaluate(jobs_.at(id));
  std::vector<std::string> ids;  // CheckLease may forget one
  for (const auto& [id, worker] : workers_) ids.push_back(id);
  for (const std::string& id : ids) {
    CheckRelease(workers_.at(id));
    CheckLease(workers_.at(id));
  }
  schedule_dirty_ = true;
}

void Core::RunWakes() {
  if (!writable_) return;
  while (!job_wakes_.empty() && job_wakes_.begin()->first <= now_.steady) {
    JobEntry& job = jobs_.at(job_wakes_.begin()->second);
    SetWake(job, absl::InfiniteFuture());
    Evaluate(job);
  }
  while (!worker_wakes_.empty() && worker_wakes_.begin()->first <= now_.steady) {
    WorkerEntry& worker = workers_.at(worker_wakes_.begin()->second);
    SetWake(worker, absl::InfiniteFuture());
    CheckRelease(worker);
    CheckLease(worker);
  }
  if (schedule_wake_ <= now_.steady) schedule_dirty_ = true;
  while (!remembered_order_.empty() && remembered_order_.front().first <= now_.steady) {
    remembered_.erase(remembered_order_.front().second);
    remembered_order_.pop_front();
  }
}

absl::Time Core::NextDeadline() const {
  if (!writable_) return absl::InfiniteFuture();
  absl::Time next = schedule_wake_;
  if (!job_wakes_.empty()) next = std::min(next, job_wakes_.begin()->first);
  if (!worker_wakes_.empty()) next = std::min(next, worker_wakes_.begin()->first);
  return next;
}

// Ends a Handle: schedules, recomputes desired states, and turns what changed into one transaction.
void Core::Finish() {
  // A decision may free or take what the next one looks at; twice is enough, a timer does the rest.
  for (int pass = 0; pass < 3 && schedule_dirty_ && writable_; ++pass) RunScheduler();
  for (const std::string& id : touched_workers_) {
    const auto it = workers_.find(id);
    if (it == workers_.end()) continue;
    WorkerEntry& worker = it->second;
    worker.touched = false;
    auto desired = ComputeDesired(worker);
    if (worker.wanted != nullptr &&
        worker.wanted->SerializeAsString() == desired->SerializeAsString()) {
      continue;
    }
    worker.wanted = desired;
    Defer(ReleaseDesired{id, std::move(desired)});
  }
  touched_workers_.clear();
  Flush();
}

void Core::Flush() {
  for (const std::string& id : dirty_jobs_) {
    JobEntry& job = jobs_.at(id);
    job.dirty = false;
    changes_.jobs.push_back(job.row);
  }
  for (const std::string& id : dirty_workers_) {
    const auto it = workers_.find(id);
    if (it == workers_.end()) continue;
    it->second.dirty = false;
    it->second.row.mutable_worker()->set_state(StateOf(it->second));
    changes_.workers.push_back(it->second.row);
  }
  dirty_jobs_.clear();
  dirty_workers_.clear();
  if (!changes_.empty()) {
    out_.push_back(PersistAction{++last_persist_, std::move(changes_)});
    changes_ = Changes();
  }
  if (last_persist_ <= committed_) {
    for (DeferredAction& action : deferred_) Emit(std::move(action));
  } else if (!deferred_.empty()) {
    waiting_.emplace_back(last_persist_, std::move(deferred_));
  }
  deferred_.clear();
}

void Core::ReleaseUpTo(uint64_t id) {
  committed_ = std::max(committed_, id);
  while (!waiting_.empty() && waiting_.front().first <= committed_) {
    for (DeferredAction& action : waiting_.front().second) Emit(std::move(action));
    waiting_.pop_front();
  }
}

void Core::Emit(DeferredAction action) {
  if (auto* plain = std::get_if<Action>(&action)) {
    out_.push_back(std::move(*plain));
    return;
  }
  auto& release = std::get<ReleaseDesired>(action);
  WorkerEntry* worker = FindWorker(release.worker_id);
  if (worker == nullptr) return;
  worker->released = release.desired;
  if (worker->session != 0) {
    out_.push_back(SendAction{worker->session, 0, false, release.desired});
  }
}

void Core::SetWake(JobEntry& job, absl::Time time) {
  if (job.wake == time) return;
  const std::string& id = job.row.job().id();
  job_wakes_.erase({job.wake, id});
  job.wake = time;
  if (time != absl::InfiniteFuture()) job_wakes_.insert({time, id});
}

void Core::SetWake(WorkerEntry& worker, absl::Time time) {
  if (worker.wake == time) return;
  const std::string& id = worker.row.worker().id();
  worker_wakes_.erase({worker.wake, id});
  worker.wake = time;
  if (time != absl::InfiniteFuture()) worker_wakes_.insert({time, id});
}

v1::Event& Core::AddEvent(const std::string& kind, const std::string& actor) {
  v1::Event& event = changes_.events.emplace_back();
  *event.mutable_time() = ToProto(now_.wall);
  event.set_kind(kind);
  event.mutable_actor()->set_name(actor);
  return event;
}

v1::Event& Core::AddJobEvent(const JobRow& row, const std::string& kind, const std::string& actor) {
  v1::Event& event = AddEvent(kind, actor);
  event.set_job_id(row.job().id());
  event.set_attempt(row.job().attempt());
  event.set_generation(row.job().generation());
  event.set_step(row.job().step());
  return event;
}

const JobRow* Core::FindJob(const std::string& job_id) const {
  const auto it = jobs_.find(job_id);
  return it == jobs_.end() ? nullptr : &it->second.row;
}

std::vector<v1::Worker> Core::Workers() const {
  std::vector<v1::Worker> workers;
  for (const auto& [id, worker] : workers_) workers.push_back(Describe(worker));
  return workers;
}

}  // namespace vitscale
