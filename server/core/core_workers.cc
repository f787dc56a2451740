// Membership: workers and their registrations.

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/core/convert.h"
#include "server/core/core.h"
#include "server/core/device_claims.h"

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

// Its card is used by somebody else; a trainer of its own is no reason.
bool Core::Dirty(const WorkerEntry& worker) const {
  return !worker.holding.has_value() && !worker.observed.device_use().dirty().empty();
}

// Takes jobs, now or when its own has ended. Who uses a card must have been told: a card that
// nobody has looked at may be anybody's.
bool Core::Usable(const WorkerEntry& worker) const {
  const bool unread =
      worker.row.worker().device().kind() == v1::DEVICE_CUDA && !worker.observed.has_device_use();
  return worker.reported && worker.reachable && !worker.lost && !Quarantined(worker) &&
         !worker.row.draining() && !unread && !Dirty(worker);
}

v1::WorkerState Core::StateOf(const WorkerEntry& worker) const {
  if (worker.lost) return v1::WORKER_STATE_LOST;
  if (!worker.reachable) return v1::WORKER_STATE_UNREACHABLE;
  if (Quarantined(worker)) return v1::WORKER_STATE_QUARANTINED;
  if (worker.row.draining()) return v1::WORKER_STATE_DRAINING;
  if (Dirty(worker)) return v1::WORKER_STATE_DIRTY;
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
  if (entry.observed.has_device_use()) *worker.mutable_device_use() = entry.observed.device_use();
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
  VITSCALE_RETURN_IF_ERROR(CheckDevice(request.device()));
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
  worker.numeric_class = NumericClassOf(row);
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

}  // namespace vitscale
