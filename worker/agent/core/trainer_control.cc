#include "worker/agent/core/trainer_control.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vitscale::agent {
namespace {

using link::DesiredState;
using link::ObservedState;
using link::SpooledRecord;
using link::Stage;
using link::TrainerExit;

constexpr absl::Duration kShortLife = absl::Seconds(10);
constexpr absl::Duration kRestartDelayMax = absl::Seconds(30);

bool WantsTrainer(const DesiredState& desired) {
  return !desired.job_id.empty() && (desired.stage == Stage::kPrepare ||
                                     desired.stage == Stage::kForm || desired.stage == Stage::kGo);
}

// Deaths that say nothing about the job: a signal, a lost peer, the device, a missing library.
bool IsInfrastructure(int exit_code) {
  switch (static_cast<TrainerExit>(exit_code)) {
    case TrainerExit::kDone:
    case TrainerExit::kPreemptedSaved:
    case TrainerExit::kPreemptedUnsaved:
    case TrainerExit::kConfiguration:
    case TrainerExit::kData:
    case TrainerExit::kNonFinite:
    case TrainerExit::kStorage:
    case TrainerExit::kFenced:
    case TrainerExit::kNoProgress:
      return false;
    default:
      return true;
  }
}

// A deadline that has passed is used up.
absl::Time Unless(absl::Time deadline, absl::Time now) {
  return now >= deadline ? absl::InfiniteFuture() : deadline;
}

}  // namespace

TrainerControl::Trainer::Trainer() = default;

// ---- events ------------------------------------------------------------------

void TrainerControl::OnStarted(const TrainerStarted& event) {
  if (Mine(event.trainer)) trainer_->pid = event.pid;
}

void TrainerControl::OnStartFailed(const TrainerStartFailed& event, absl::Time now,
                                   std::vector<Action>& actions) {
  if (!Mine(event.trainer) || trainer_->dead()) return;
  trainer_->error = absl::StrCat("cannot start the trainer: ", event.error);
  trainer_->reaped = trainer_->group_empty = true;
  trainer_->exit_code = static_cast<int>(TrainerExit::kDevice);
  RecordDeath(now, actions);
}

void TrainerControl::OnReport(const TrainerReported& event, absl::Time now,
                              std::vector<Action>& actions) {
  if (!Mine(event.trainer) || trainer_->dead()) return;
  trainer_->last_report = now;
  if (event.report.observed) trainer_->reported = *event.report.observed;
  if (event.report.records.empty()) return;
  SpoolRecords spool;
  for (const SpooledRecord& record : event.report.records) spool.records.push_back(Stamp(record));
  trainer_->records += static_cast<int64_t>(spool.records.size());
  actions.push_back(std::move(spool));
}

void TrainerControl::OnLinkEnded(const TrainerLinkEnded& event, absl::Time now,
                                 std::vector<Action>& actions) {
  if (!Mine(event.trainer) || trainer_->dead()) return;
  if (event.garbage) {
    Kill(absl::StrCat("it sent garbage: ", event.reason), now, actions);
  } else {
    trainer_->link_deadline = now + options_.link_grace;
  }
}

void TrainerControl::OnReaped(const TrainerReaped& event, absl::Time now,
                              std::vector<Action>& actions) {
  if (!Mine(event.trainer) || trainer_->dead()) return;
  trainer_->reaped = true;
  trainer_->exit_code = event.exit_code;
  RecordDeath(now, actions);
  // The shell killed its group before it reaped the leader; who is left of it holds the device.
  trainer_->next_kill = now + options_.kill_interval;
}

void TrainerControl::OnGroupEmpty(const TrainerGroupEmpty& event) {
  if (!Mine(event.trainer)) return;
  trainer_->group_empty = true;
  if (trainer_->reaped) trainer_->next_kill = absl::InfiniteFuture();
}

void TrainerControl::OnOutput(const TrainerOutput& event, std::vector<Action>& actions) {
  if (!Mine(event.trainer)) return;
  SpooledRecord record;
  record.record = link::LogLine{.rank = trainer_->rank,
                                .worker_id = options_.setup.worker_id,
                                .text = event.text,
                                .attempt = trainer_->attempt};
  actions.push_back(SpoolRecords{{Stamp(std::move(record))}});
}

void TrainerControl::OnTimeJump(absl::Time now) {
  if (trainer_) trainer_->last_report = now;
}

void TrainerControl::RecordsSpooled() {
  if (trainer_) trainer_->spooled = trainer_->records;
}

// ---- reconciliation ----------------------------------------------------------

bool TrainerControl::BelongsTo(const DesiredState& desired) const {
  return trainer_ && trainer_->job_id == desired.job_id && trainer_->attempt == desired.attempt;
}

void TrainerControl::Reconcile(const DesiredState& desired, bool may_start,
                               absl::Duration heartbeat, absl::Time now,
                               std::vector<Action>& actions) {
  if (trainer_ && !BelongsTo(desired)) {
    if (lives()) {
      trainer_->exit_deadline = absl::InfiniteFuture();
      Kill(absl::StrCat("its attempt ", trainer_->attempt, " is over"), now, actions);
    } else {
      trainer_.reset();
      short_lives_ = 0;
    }
  }
  if (trainer_) Watch(now, actions);
  if (BelongsTo(desired) && !trainer_->dead()) Direct(desired, heartbeat, now, actions);
  const bool free = !trainer_ || (trainer_->gone() && MayRestart(desired, now));
  if (trainer_ && trainer_->gone()) trainer_->restart_at = Unless(trainer_->restart_at, now);
  if (free && may_start && WantsTrainer(desired)) Start(desired, now, actions);
}

bool TrainerControl::MayRestart(const DesiredState& desired, absl::Time now) const {
  // restart_at: a time ahead, or used up (infinitely far) once it has passed.
  const bool waits = now < trainer_->restart_at && trainer_->restart_at < absl::InfiniteFuture();
  if (!trainer_->death_acknowledged || waits) return false;
  return IsInfrastructure(trainer_->exit_code) || desired.generation > trainer_->generation;
}

void TrainerControl::Start(const DesiredState& desired, absl::Time now,
                           std::vector<Action>& actions) {
  trainer_.emplace();
  trainer_->number = ++last_number_;
  trainer_->job_id = desired.job_id;
  trainer_->attempt = desired.attempt;
  trainer_->generation = desired.generation;
  trainer_->rank = desired.rank;
  trainer_->started = trainer_->last_report = now;
  trainer_->reported.stage = Stage::kIdle;
  actions.push_back(StartTrainer{trainer_->number, desired.job_id, desired.attempt});
  AddEvent("trainer_started", "",
           absl::StrCat("rank ", desired.rank, " on ", options_.setup.worker_id), actions);
  // Its first order waits for the start to succeed: see Direct, called with the next event.
}

// Orders, and the deadline of an exit.
void TrainerControl::Direct(const DesiredState& desired, absl::Duration heartbeat, absl::Time now,
                            std::vector<Action>& actions) {
  if (trainer_->pid == 0) return;
  if (desired.stage == Stage::kExit) {
    if (desired.kill) {
      Kill("the coordinator asked for it", now, actions);
    } else if (trainer_->exit_deadline == absl::InfiniteFuture()) {
      trainer_->exit_deadline =
          now + (desired.grace_seconds > 0 ? absl::Seconds(desired.grace_seconds)
                                           : options_.default_grace);
    }
  } else {
    trainer_->exit_deadline = absl::InfiniteFuture();
  }
  const DesiredState order = ForTrainer(desired);
  if (order == trainer_->told && now < trainer_->next_order) return;
  trainer_->told = order;
  if (order.stage != Stage::kExit) trainer_->rank = order.rank;  // an exit order has no members
  trainer_->generation = order.generation;
  if (order.stage == Stage::kForm) trainer_->formed_generation = order.generation;
  trainer_->next_order = now + heartbeat;
  SendWhole(now, actions);
}

DesiredState TrainerControl::ForTrainer(const DesiredState& desired) const {
  DesiredState order = desired;
  if (order.stage == Stage::kGo && trainer_->formed_generation != order.generation) {
    order.stage = Stage::kPrepare;
  }
  return order;
}

void TrainerControl::SendWhole(absl::Time now, std::vector<Action>& actions) {
  link::TrainerOrder order;
  order.desired = trainer_->told;
  if (!std::exchange(trainer_->setup_sent, true)) order.setup = options_.setup;
  order.orphaned = trainer_->orphaned;
  order.spooled = trainer_->spooled;
  actions.push_back(SendOrder{trainer_->number, std::move(order)});
}

// Deadlines of a trainer that shall end, or that does not answer.
void TrainerControl::Watch(absl::Time now, std::vector<Action>& actions) {
  if (trainer_->gone()) return;
  if (!trainer_->dead()) {
    if (std::exchange(trainer_->exit_deadline, Unless(trainer_->exit_deadline, now)) <= now) {
      Kill("its grace has passed", now, actions);
    }
    if (std::exchange(trainer_->link_deadline, Unless(trainer_->link_deadline, now)) <= now) {
      Kill("it closed its link and went on", now, actions);
    }
    if (now >= trainer_->last_report + options_.silence_max) {
      trainer_->last_report = absl::InfiniteFuture();
      Kill(absl::StrCat("silent for ", absl::FormatDuration(options_.silence_max)), now, actions);
    }
  }
  if (now >= trainer_->next_kill) {
    actions.push_back(KillTrainer{trainer_->number});
    trainer_->next_kill = now + options_.kill_interval;
  }
}

void TrainerControl::Orphan(absl::Time now, std::vector<Action>& actions) {
  if (!trainer_ || trainer_->dead() || trainer_->pid == 0 || trainer_->orphaned) return;
  trainer_->orphaned = true;
  AddEvent("orphaned", "", "no coordinator: the trainer saves what it can and leaves", actions);
  SendWhole(now, actions);
}

void TrainerControl::Kill(const std::string& reason, absl::Time now, std::vector<Action>& actions) {
  if (!lives() || !trainer_->kill_reason.empty()) return;
  trainer_->kill_reason = reason;
  actions.push_back(
      LogText{LogLevel::WARNING, absl::StrCat("killing trainer of job ", trainer_->job_id,
                                              " attempt ", trainer_->attempt, ": ", reason)});
  trainer_->next_kill = now;
  Watch(now, actions);
}

// ---- what is said about it ---------------------------------------------------

void TrainerControl::RecordDeath(absl::Time now, std::vector<Action>& actions) {
  // One that trained was not the cause of its death: kills must not slow down recoveries.
  const bool fruitless =
      now - trainer_->started < kShortLife && trainer_->reported.stage != Stage::kGo;
  short_lives_ = fruitless ? short_lives_ + 1 : 0;
  if (short_lives_ > 1) {
    trainer_->restart_at =
        now + std::min(kRestartDelayMax, absl::Seconds(std::exp2(std::min(short_lives_ - 2, 10))));
  }
  std::string how =
      !trainer_->error.empty() ? trainer_->error : link::DescribeExit(trainer_->exit_code);
  if (!trainer_->kill_reason.empty()) {
    absl::StrAppend(&how, "; the agent killed it: ", trainer_->kill_reason);
  }
  const std::string line =
      absl::StrCat("trainer of attempt ", trainer_->attempt, ", rank ", trainer_->rank, ": ", how);
  OnOutput(TrainerOutput{trainer_->number, line}, actions);
  AddEvent("trainer_exited", absl::StrCat("exit_", trainer_->exit_code), line, actions);
  actions.push_back(LogText{LogLevel::INFO, absl::StrCat("job ", trainer_->job_id, ": ", line)});
  if (trainer_->error.empty()) {
    trainer_->error = trainer_->reported.error.empty() ? how : trainer_->reported.error;
  }
}

ObservedState TrainerControl::Observed(const DesiredState& desired) const {
  ObservedState observed;
  if (!trainer_) {
    observed.stage = Stage::kIdle;
    observed.device_free = true;
    if (desired.stage == Stage::kExit && !desired.job_id.empty()) {
      // It belonged to a former life of this agent, which held the device lock that we hold now: it
      // is gone.
      observed.job_id = desired.job_id;
      observed.attempt = desired.attempt;
      observed.generation = desired.generation;
      observed.stage = Stage::kExit;
      observed.exited = true;
      observed.exit_code = 128 + 9;
      observed.error = "the trainer ended with a former life of its agent";
    }
    return observed;
  }
  observed = trainer_->reported;
  observed.job_id = trainer_->job_id;
  observed.attempt = trainer_->attempt;
  observed.trainer_pid = trainer_->dead() ? 0 : trainer_->pid;
  observed.exited = trainer_->gone();
  observed.device_free = trainer_->gone();
  observed.exit_code = trainer_->dead() ? trainer_->exit_code : 0;
  if (trainer_->gone()) observed.stage = Stage::kExit;
  if (trainer_->dead()) observed.error = trainer_->error;
  return observed;
}

SpooledRecord TrainerControl::Stamp(SpooledRecord record) const {
  record.job_id = trainer_->job_id;
  record.attempt = trainer_->attempt;
  if (record.generation == 0) record.generation = trainer_->generation;
  return record;
}

void TrainerControl::AddEvent(const std::string& kind, const std::string& reason,
                              const std::string& message, std::vector<Action>& actions) const {
  SpooledRecord record;
  record.record = link::Event{.job_id = trainer_->job_id,
                              .worker_id = options_.setup.worker_id,
                              .kind = kind,
                              .reason = reason,
                              .message = message,
                              .attempt = trainer_->attempt,
                              .generation = trainer_->generation,
                              .step = trainer_->reported.step};
  actions.push_back(SpoolRecords{{Stamp(std::move(record))}});
}

absl::Time TrainerControl::NextDeadline() const {
  if (!trainer_) return absl::InfiniteFuture();
  if (trainer_->gone()) {
    return trainer_->death_acknowledged ? trainer_->restart_at : absl::InfiniteFuture();
  }
  if (trainer_->dead()) return trainer_->next_kill;
  const bool ordered = trainer_->pid != 0 && trainer_->kill_reason.empty();
  return std::min({trainer_->exit_deadline, trainer_->link_deadline, trainer_->next_kill,
                   trainer_->last_report + options_.silence_max,
                   ordered ? trainer_->next_order : absl::InfiniteFuture()});
}

}  // namespace vitscale::agent
