// The agent as a deterministic machine: one worker's desired and observed state, its session and
// its trainer.
//
// Single-threaded, no I/O, no clock. Handle(event, now) returns what to do, in order;
// NextDeadline() says when Handle(Tick) must be called at the latest. `now` is Clock::Monotonic().
//
// Rules it keeps (each has a test in tests/worker/agent/core):
// - A lower term is refused; of a job a lower (attempt, generation) is refused; the answer says
// what stands.
// - Observed state is sent whole, on change and with each heartbeat.
// - A trainer lives only for the desired (job, attempt), on a device that is free, in a window that
// is owned: before
//   the orphan window since the last acknowledged heartbeat was sent ends, the trainer is asked to
//   save and leave, then killed.
// - SIGTERM asks the coordinator to drain the job, and does not wait for ever.

#ifndef WORKER_AGENT_CORE_AGENT_CORE_H_
#define WORKER_AGENT_CORE_AGENT_CORE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "kernels/base/random.h"
#include "worker/agent/core/events.h"
#include "worker/agent/core/session_state.h"
#include "worker/agent/core/trainer_control.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

struct AgentOptions {
  TrainerOptions trainer;
  absl::Duration drain_grace = absl::Seconds(150);  // from SIGTERM to SIGKILL of the trainer
  absl::Duration linger = absl::Seconds(5);         // at the end, for acknowledgements
};

class AgentCore {
 public:
  // `jitter` outlives the core.
  AgentCore(AgentOptions options, Random& jitter)
      : options_(std::move(options)), session_(jitter), trainer_(options_.trainer) {}

  std::vector<Action> Handle(const Event& event, absl::Time now);
  absl::Time NextDeadline() const;

  // What the coordinator is told now.
  link::ObservedState Observed() const;
  const link::DesiredState& desired() const { return desired_; }
  const SessionState& session() const { return session_; }

 private:
  using Actions = std::vector<Action>;

  void On(const Tick&, absl::Time, Actions&) {}
  void On(const Registered& event, absl::Time now, Actions& actions);
  void On(const SessionFailed& event, absl::Time now, Actions& actions);
  void On(const CoordinatorSays& event, absl::Time now, Actions& actions);
  void On(const TrainerStarted& event, absl::Time now, Actions& actions);
  void On(const TrainerStartFailed& event, absl::Time now, Actions& actions);
  void On(const TrainerReported& event, absl::Time now, Actions& actions);
  void On(const TrainerLinkEnded& event, absl::Time now, Actions& actions);
  void On(const TrainerReaped& event, absl::Time now, Actions& actions);
  void On(const TrainerGroupEmpty& event, absl::Time now, Actions& actions);
  void On(const TrainerOutput& event, absl::Time now, Actions& actions);
  void On(const SpoolChanged& event, absl::Time now, Actions& actions);
  void On(const DeviceSeen& event, absl::Time now, Actions& actions);
  void On(const ShutdownRequested& event, absl::Time now, Actions& actions);

  bool Accept(const link::DesiredState& desired, Actions& actions);
  void CheckOwnership(absl::Time now, Actions& actions);
  void CheckLeaving(absl::Time now, Actions& actions);
  void Leave(int exit_code, const std::string& why, absl::Time deadline);
  absl::Time OrphanOrderAt() const;
  absl::Time OrphanKillAt() const;

  const AgentOptions options_;
  SessionState session_;
  TrainerControl trainer_;
  link::DesiredState desired_;
  std::map<std::string, std::pair<int64_t, int64_t>>
      fences_;  // job -> greatest (attempt, generation)
  std::pair<int64_t, int64_t> death_message_ = {
      0, 0};                                   // (session, number) that first told of the death
  std::optional<link::DeviceUse> device_use_;  // of a card
  absl::Time trainer_lived_ = absl::InfinitePast();
  int64_t unacknowledged_ = 0;
  bool unsent_ = false;
  absl::Time promised_call_ = absl::InfiniteFuture();  // NextDeadline after the last event

  absl::Time ownership_deadline_ = absl::InfiniteFuture();

  bool leaving_ = false;
  bool exited_ = false;
  int exit_code_ = 0;
  std::string exit_why_;
  absl::Time leave_deadline_ = absl::InfiniteFuture();       // SIGKILL to the trainer
  absl::Time unkillable_deadline_ = absl::InfiniteFuture();  // end, though it is not reaped
  absl::Time linger_deadline_ = absl::InfiniteFuture();      // end, acknowledged or not
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_CORE_AGENT_CORE_H_
