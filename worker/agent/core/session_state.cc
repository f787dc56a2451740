#include "worker/agent/core/session_state.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace vitscale::agent {
namespace {

constexpr absl::Duration kBackoffFirst = absl::Milliseconds(200);
constexpr absl::Duration kBackoffMax = absl::Seconds(5);
constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);
constexpr absl::Duration kRecordInterval = absl::Milliseconds(100);
constexpr absl::Duration kLogInterval = absl::Seconds(30);
constexpr size_t kSentMax = 4096;  // messages in flight whose time is remembered

// Equal but for counters that rise all the time.
bool DifferOnlyInProgress(link::ObservedState a, const link::ObservedState& b) {
  a.step = b.step;
  a.committed_step = b.committed_step;
  a.spooled = b.spooled;
  return a == b;
}

}  // namespace

void SessionState::Open(absl::Time now, std::vector<Action>& actions) {
  ++session_;
  begun_ = now;
  heard_ = false;
  if (credential_.empty()) {
    phase_ = Phase::kRegistering;
    actions.push_back(Register{session_});
    return;
  }
  phase_ = Phase::kOpen;
  last_message_ = 0;
  acknowledged_message_ = 0;
  sent_.clear();
  last_send_ = absl::InfinitePast();
  last_sent_observed_.reset();
  actions.push_back(OpenSession{session_, credential_});
}

void SessionState::Retry(absl::Time now) {
  phase_ = Phase::kWaiting;
  send_due_ = absl::InfiniteFuture();
  const absl::Duration longest = std::min(kBackoffMax, lease_ / 3);
  const absl::Duration delay =
      std::min(longest, kBackoffFirst * std::exp2(std::min(failures_, 10)));
  ++failures_;
  retry_at_ = now + delay * (0.5 + 0.5 * RandomUniform(jitter_));
}

void SessionState::OnRegistered(const Registered& event, absl::Time now,
                                std::vector<Action>& actions) {
  if (event.session != session_ || phase_ != Phase::kRegistering) return;
  if (event.term < term_) {
    Retry(now);
    Complain(absl::StrCat("coordinator of term ", event.term, " refused: term ", term_,
                          " has been seen"),
             now, actions);
    return;
  }
  term_ = event.term;
  credential_ = event.credential;
  heartbeat_ = event.heartbeat;
  lease_ = event.lease;
  orphan_window_ = event.orphan_window;
  // A registration is no heartbeat; only the first one starts the count, when nothing is owned yet.
  if (!registered_once_) owned_since_ = begun_;
  registered_once_ = true;
  actions.push_back(LogText{LogLevel::INFO, absl::StrCat("registered, term ", term_)});
  Open(now, actions);
}

std::optional<SessionFailed> SessionState::OnFailed(const SessionFailed& event, absl::Time now,
                                                    std::vector<Action>& actions) {
  if (event.session != session_ || phase_ == Phase::kWaiting) return std::nullopt;
  const bool had_credential = !credential_.empty();
  if (event.error != SessionError::kUnavailable) credential_.clear();
  // Later on, a coordinator with another configuration must not cost a running trainer: it may come
  // right.
  if (event.error == SessionError::kFenced ||
      (event.error == SessionError::kConfiguration && !registered_once_)) {
    phase_ = Phase::kWaiting;
    retry_at_ = absl::InfiniteFuture();
    return event;
  }
  const bool register_at_once = event.error == SessionError::kRefused && had_credential;
  Retry(now);
  if (register_at_once) retry_at_ = now;
  Complain(event.message, now, actions);
  return std::nullopt;
}

// The same words at most every 30 s.
void SessionState::Complain(const std::string& message, absl::Time now,
                            std::vector<Action>& actions) {
  if (message == logged_message_ && now - logged_ < kLogInterval) return;
  actions.push_back(LogText{LogLevel::WARNING, absl::StrCat(message, "; trying again")});
  logged_ = now;
  logged_message_ = message;
}

bool SessionState::OnMessage(const CoordinatorSays& event, absl::Time now,
                             std::vector<Action>& actions) {
  if (event.session != session_ || phase_ != Phase::kOpen) return false;
  if (event.term < term_) {
    send_forced_ = true;  // the answer carries the higher term
    return false;
  }
  term_ = event.term;
  if (!heard_ && !logged_message_.empty()) {
    actions.push_back(LogText{LogLevel::INFO, "coordinator is back"});
    logged_message_.clear();
  }
  heard_ = true;
  failures_ = 0;
  last_heard_ = now;
  while (!sent_.empty() && sent_.front().first <= event.acknowledged_message) {
    owned_since_ = std::max(owned_since_, sent_.front().second);
    sent_.pop_front();
  }
  acknowledged_message_ =
      std::max(acknowledged_message_, std::min(event.acknowledged_message, last_message_));
  return true;
}

void SessionState::Advance(absl::Time now, std::vector<Action>& actions) {
  if (phase_ == Phase::kOpen && now >= std::max(begun_, last_heard_) + lease_) {
    actions.push_back(LogText{LogLevel::WARNING,
                              absl::StrCat("coordinator silent for ", absl::FormatDuration(lease_),
                                           ": opening a new session")});
    actions.push_back(CloseSession{session_});
    Retry(now);
  }
  if (phase_ == Phase::kWaiting && now >= retry_at_) Open(now, actions);
}

void SessionState::MaybeSend(const link::ObservedState& observed, bool unsent_records,
                             absl::Time now, std::vector<Action>& actions) {
  if (phase_ != Phase::kOpen) return;
  send_due_ = last_send_ + heartbeat_;
  if (unsent_records) send_due_ = std::min(send_due_, last_send_ + kRecordInterval);
  if (send_forced_ || !last_sent_observed_) {
    send_due_ = now;
  } else if (observed != *last_sent_observed_) {
    send_due_ = DifferOnlyInProgress(observed, *last_sent_observed_)
                    ? std::min(send_due_, last_send_ + kProgressInterval)
                    : now;
  }
  if (now < send_due_) return;
  actions.push_back(SendMessage{session_, term_, ++last_message_, observed});
  sent_.emplace_back(last_message_, now);
  if (sent_.size() > kSentMax) sent_.pop_front();
  last_sent_observed_ = observed;
  last_send_ = now;
  send_due_ = now + heartbeat_;
  send_forced_ = false;
}

bool SessionState::Acknowledged(link::ObservedState observed) const {
  if (!last_sent_observed_ || acknowledged_message_ < last_message_) return false;
  observed.spooled = last_sent_observed_->spooled;
  return observed == *last_sent_observed_;
}

absl::Time SessionState::NextDeadline() const {
  switch (phase_) {
    case Phase::kWaiting:
      return retry_at_;
    case Phase::kRegistering:
      return absl::InfiniteFuture();  // the call has a deadline of its own and always answers
    case Phase::kOpen:
      return std::min(send_due_, std::max(begun_, last_heard_) + lease_);
  }
  return absl::InfiniteFuture();
}

}  // namespace vitscale::agent
