// What time does to workers: leases, ownership, release, quarantine. A lease that runs out breaks
// nothing; it only stops new placements.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/core/convert.h"
#include "server/core/core.h"

namespace vitscale {

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

// It has said that it leaves, its session is closed, and no job has anything on its device.
bool Core::LeftInOrder(const WorkerEntry& worker) const {
  const v1::ObservedState& last = worker.observed;
  return worker.heard && worker.session == 0 && last.draining() && !worker.holding.has_value() &&
         (last.job_id().empty() || last.exited());
}

// The entry is gone afterwards, as after Forget.
void Core::SayLeft(WorkerEntry& worker) {
  const std::string& id = worker.row.worker().id();
  v1::Event& event = AddEvent("worker_left", absl::StrCat("worker:", id));
  event.set_worker_id(id);
  event.set_message("left in good order");
  Forget(worker);
}

// Only of a worker that holds nothing and whose trainer is known to be gone: see ViewOf.
void Core::Forget(WorkerEntry& worker) {
  const std::string id = worker.row.worker().id();
  SetWake(worker, absl::InfiniteFuture());
  changes_.removed_workers.push_back(id);
  dirty_workers_.erase(id);
  workers_.erase(id);
  schedule_dirty_ = true;
}

void Core::CheckLease(WorkerEntry& worker) {
  if (LeftInOrder(worker)) return SayLeft(worker);
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
    if (now_.steady >= forget) return Forget(worker);
    next = std::min(next, forget);
  }
  SetWake(worker, std::min(worker.wake, next));
  if (worker.holding.has_value() && !worker.holding->releasing && now_.steady >= lease_end) {
    if (const auto it = jobs_.find(worker.holding->job_id); it != jobs_.end()) Evaluate(it->second);
  }
}

}  // namespace vitscale
