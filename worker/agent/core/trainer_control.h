// One agent's trainer: when it is started, what it is told, when it is killed, and what is said
// about it.
//
// A trainer belongs to one (job, attempt) and is replaced when that changes: the old one is killed
// and gone before a new one starts. Within an attempt it lives through all generations; if it dies,
// the next one starts at once, as soon as the coordinator has acknowledged the death (else a lost
// message would hide it). Who died of its own decision (bad data, storage, fenced, …) starts again
// only in a higher generation.
//
// `go` reaches only a trainer that was told to form that very generation: one started later has
// missed it, so it is told to prepare until the coordinator has moved on.

#ifndef WORKER_AGENT_CORE_TRAINER_CONTROL_H_
#define WORKER_AGENT_CORE_TRAINER_CONTROL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/agent/core/events.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

struct TrainerOptions {
  link::TrainerSetup setup;                         // sent to every trainer first
  absl::Duration default_grace = absl::Minutes(2);  // where the coordinator gives none
  absl::Duration kill_interval =
      absl::Seconds(10);                           // SIGKILL is sent again until the group is gone
  absl::Duration silence_max = absl::Seconds(60);  // a trainer reports every second
  absl::Duration link_grace =
      absl::Seconds(5);  // from the end of the link to the end of the process
};

class TrainerControl {
 public:
  explicit TrainerControl(TrainerOptions options) : options_(std::move(options)) {}

  void OnStarted(const TrainerStarted& event);
  void OnStartFailed(const TrainerStartFailed& event, absl::Time now, std::vector<Action>& actions);
  void OnReport(const TrainerReported& event, absl::Time now, std::vector<Action>& actions);
  void OnLinkEnded(const TrainerLinkEnded& event, absl::Time now, std::vector<Action>& actions);
  void OnReaped(const TrainerReaped& event, absl::Time now, std::vector<Action>& actions);
  void OnGroupEmpty(const TrainerGroupEmpty& event);
  void OnOutput(const TrainerOutput& event, std::vector<Action>& actions);
  // The machine slept or the agent was stopped: silence until now means nothing.
  void OnTimeJump(absl::Time now);

  // Brings the trainer to what is wanted. `may_start`: the agent is not leaving and owns its device
  // for long enough.
  void Reconcile(const link::DesiredState& desired, bool may_start, absl::Duration heartbeat,
                 absl::Time now, std::vector<Action>& actions);
  // The window without a coordinator nears its end, or the agent must leave without one.
  void Orphan(absl::Time now, std::vector<Action>& actions);
  // SIGKILL now and every kill_interval until the group is gone. The first reason stays.
  void Kill(const std::string& reason, absl::Time now, std::vector<Action>& actions);

  // What the coordinator is told, but for what only the agent knows (draining, spooled).
  link::ObservedState Observed(const link::DesiredState& desired) const;
  // A message with the trainer's death was acknowledged.
  void DeathAcknowledged() {
    if (trainer_ && trainer_->dead()) trainer_->death_acknowledged = true;
  }
  // Records of the present trainer that are on disk now: told with the next order.
  void RecordsSpooled();

  // A process of ours exists or its group is not empty yet.
  bool lives() const { return trainer_ && !trainer_->gone(); }
  int64_t trainer() const { return trainer_ ? trainer_->number : 0; }
  int rank() const { return trainer_ ? trainer_->rank : -1; }

  absl::Time NextDeadline() const;

 private:
  struct Trainer {
    Trainer();  // out of line: the initialisers below need the enclosing class to be complete

    int64_t number = 0;
    std::string job_id;
    int64_t attempt = 0;
    int rank = -1;
    int64_t generation = 0;  // newest told
    absl::Time started;
    int64_t pid = 0;
    link::ObservedState reported;
    absl::Time last_report;

    std::optional<link::DesiredState> told;
    int64_t formed_generation = 0;  // newest that it was told to form
    absl::Time next_order = absl::InfinitePast();
    int64_t records = 0, spooled = 0;
    bool setup_sent = false;
    bool orphaned = false;

    absl::Time exit_deadline = absl::InfiniteFuture();
    absl::Time link_deadline = absl::InfiniteFuture();
    absl::Time next_kill = absl::InfiniteFuture();
    std::string kill_reason;

    bool reaped = false, group_empty = false;
    int exit_code = 0;
    std::string error;  // of a failed start or link
    bool death_acknowledged = false;
    absl::Time restart_at = absl::InfinitePast();

    bool dead() const { return reaped; }
    bool gone() const { return reaped && group_empty; }
  };

  bool Mine(int64_t number) const { return trainer_ && trainer_->number == number; }
  bool BelongsTo(const link::DesiredState& desired) const;
  bool MayRestart(const link::DesiredState& desired, absl::Time now) const;
  void Start(const link::DesiredState& desired, absl::Time now, std::vector<Action>& actions);
  void Direct(const link::DesiredState& desired, absl::Duration heartbeat, absl::Time now,
              std::vector<Action>& actions);
  void Watch(absl::Time now, std::vector<Action>& actions);
  void SendWhole(absl::Time now, std::vector<Action>& actions);
  link::DesiredState ForTrainer(const link::DesiredState& desired) const;
  void RecordDeath(absl::Time now, std::vector<Action>& actions);
  link::SpooledRecord Stamp(link::SpooledRecord record) const;
  void AddEvent(const std::string& kind, const std::string& reason, const std::string& message,
                std::vector<Action>& actions) const;

  const TrainerOptions options_;
  int64_t last_number_ = 0;
  std::optional<Trainer> trainer_;
  int short_lives_ = 0;  // in a row, of this attempt
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_CORE_TRAINER_CONTROL_H_
