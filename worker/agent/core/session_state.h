// The agent's side of a session: registration, back-off, heartbeats, and until when the device is
// still owned.
//
// Two clocks. *Liveness*: a session that heard nothing for a lease is given up and a new one
// opened. *Ownership*: the coordinator counts from when it received a heartbeat, the agent from
// when it *sent* the last acknowledged one, which is earlier; so the agent always stops first.
// Back-off is at most a third of the lease: a coordinator that waits one lease after its restart
// hears from every agent that lives.

#ifndef WORKER_AGENT_CORE_SESSION_STATE_H_
#define WORKER_AGENT_CORE_SESSION_STATE_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "kernels/base/random.h"
#include "worker/agent/core/events.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

class SessionState {
 public:
  explicit SessionState(Random& jitter) : jitter_(jitter) {}

  // Events. Each is ignored unless it belongs to the present session.
  void OnRegistered(const Registered& event, absl::Time now, std::vector<Action>& actions);
  // Returns the error if it means the end of this agent.
  std::optional<SessionFailed> OnFailed(const SessionFailed& event, absl::Time now,
                                        std::vector<Action>& actions);
  // False: of another session, or of a lower term; `now` counts as hearing only for a term that is
  // not lower.
  bool OnMessage(const CoordinatorSays& event, absl::Time now, std::vector<Action>& actions);

  // Opens, gives up and retries.
  void Advance(absl::Time now, std::vector<Action>& actions);

  // Sends `observed` if it is due: at once if it changed, within 200 ms if only progress did,
  // within 100 ms if there are unsent records, else with each heartbeat.
  void MaybeSend(const link::ObservedState& observed, bool unsent_records, absl::Time now,
                 std::vector<Action>& actions);
  // The next MaybeSend sends, changed or not.
  void SendSoon() { send_forced_ = true; }

  bool open() const { return phase_ == Phase::kOpen; }
  // The coordinator has answered in this session.
  bool heard() const { return open() && heard_; }
  // The coordinator has acknowledged this state in this session, whatever the spool held then.
  bool Acknowledged(link::ObservedState observed) const;
  int64_t acknowledged_message() const { return acknowledged_message_; }
  int64_t last_message() const { return last_message_; }
  int64_t session() const { return session_; }
  int64_t term() const { return term_; }
  absl::Duration heartbeat() const { return heartbeat_; }
  absl::Duration orphan_window() const { return orphan_window_; }
  // When the last acknowledged message was sent; the orphan window counts from here.
  absl::Time owned_since() const { return owned_since_; }

  absl::Time NextDeadline() const;

 private:
  enum class Phase { kWaiting, kRegistering, kOpen };

  void Open(absl::Time now, std::vector<Action>& actions);
  void Retry(absl::Time now);
  void Complain(const std::string& message, absl::Time now, std::vector<Action>& actions);

  Random& jitter_;
  Phase phase_ = Phase::kWaiting;
  int64_t session_ = 0;
  std::string credential_;
  int64_t term_ = 0;
  bool registered_once_ = false;
  absl::Duration heartbeat_ = absl::Seconds(2);
  absl::Duration lease_ = absl::Seconds(15);
  absl::Duration orphan_window_ = absl::Minutes(10);

  int failures_ = 0;
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Time logged_ = absl::InfinitePast();
  std::string logged_message_;

  absl::Time begun_ = absl::InfinitePast();  // of the registration or stream
  bool heard_ = false;
  absl::Time last_heard_ = absl::InfinitePast();
  absl::Time owned_since_ = absl::InfinitePast();

  int64_t last_message_ = 0;
  int64_t acknowledged_message_ = 0;
  std::deque<std::pair<int64_t, absl::Time>> sent_;  // (number, time), not yet acknowledged
  absl::Time last_send_ = absl::InfinitePast();
  absl::Time send_due_ = absl::InfiniteFuture();
  bool send_forced_ = false;
  std::optional<link::ObservedState> last_sent_observed_;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_CORE_SESSION_STATE_H_
