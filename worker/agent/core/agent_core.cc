#include "worker/agent/core/agent_core.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"

namespace vitscale::agent {
namespace {

using link::DesiredState;
using link::ObservedState;

constexpr size_t kFencesMax = 1024;
constexpr absl::Duration kTimeJump = absl::Seconds(10);
constexpr absl::Duration kListedAfterEnd = absl::Seconds(5);  // by a card's driver
constexpr absl::Duration kUnkillable = absl::Seconds(30);  // a process in an uninterruptible call

}  // namespace

std::vector<Action> AgentCore::Handle(const Event& event, absl::Time now) {
  Actions actions;
  if (exited_) return actions;
  if (now > promised_call_ + kTimeJump) trainer_.OnTimeJump(now);
  std::visit([&](const auto& e) { On(e, now, actions); }, event);
  if (trainer_.lives()) trainer_lived_ = now;

  session_.Advance(now, actions);
  const bool may_start = !leaving_ && now < OrphanOrderAt();
  trainer_.Reconcile(desired_, may_start, session_.heartbeat(), now, actions);
  CheckOwnership(now, actions);
  CheckLeaving(now, actions);
  if (!exited_) {
    const ObservedState observed = Observed();
    session_.MaybeSend(observed, unsent_, now, actions);
    const std::pair<int64_t, int64_t> sent = {session_.session(), session_.last_message()};
    if (!observed.exited) death_message_ = {0, 0};
    if (observed.exited && death_message_.first != sent.first) death_message_ = sent;
  }
  promised_call_ = NextDeadline();
  return actions;
}

ObservedState AgentCore::Observed() const {
  ObservedState observed = trainer_.Observed(desired_);
  observed.draining = leaving_;
  observed.spooled = unacknowledged_;
  observed.device_use = device_use_;
  return observed;
}

absl::Time AgentCore::NextDeadline() const {
  if (exited_) return absl::InfiniteFuture();
  absl::Time next =
      std::min({session_.NextDeadline(), trainer_.NextDeadline(), ownership_deadline_});
  if (leaving_) next = std::min({next, leave_deadline_, unkillable_deadline_, linger_deadline_});
  return next;
}

// ---- session -----------------------------------------------------------------

void AgentCore::On(const Registered& event, absl::Time now, Actions& actions) {
  session_.OnRegistered(event, now, actions);
}

void AgentCore::On(const SessionFailed& event, absl::Time now, Actions& actions) {
  const std::optional<SessionFailed> fatal = session_.OnFailed(event, now, actions);
  if (!fatal) return;
  const bool fenced = fatal->error == SessionError::kFenced;
  actions.push_back(LogText{LogLevel::ERROR, fatal->message});
  Leave(static_cast<int>(fenced ? link::TrainerExit::kFenced : link::TrainerExit::kConfiguration),
        fatal->message, now);
}

void AgentCore::On(const CoordinatorSays& event, absl::Time now, Actions& actions) {
  if (!session_.OnMessage(event, now, actions)) return;
  if (event.acknowledged_record > 0) actions.push_back(AcknowledgeSpool{event.acknowledged_record});
  if (death_message_.first == session_.session() && death_message_.second > 0 &&
      session_.acknowledged_message() >= death_message_.second) {
    trainer_.DeathAcknowledged();
  }
  if (event.desired && Accept(*event.desired, actions)) desired_ = *event.desired;
}

// False for a lower (attempt, generation) of a job than was seen.
bool AgentCore::Accept(const DesiredState& desired, Actions& actions) {
  if (desired.job_id.empty()) return true;
  const std::pair<int64_t, int64_t> asked = {desired.attempt, desired.generation};
  auto [fence, is_new] = fences_.emplace(desired.job_id, asked);
  if (asked < fence->second) {
    actions.push_back(
        LogText{LogLevel::WARNING,
                absl::StrCat("job ", desired.job_id, ": attempt ", asked.first, " generation ",
                             asked.second, " refused, attempt ", fence->second.first,
                             " generation ", fence->second.second, " has been seen")});
    session_.SendSoon();
    return false;
  }
  fence->second = asked;
  if (is_new && fences_.size() > kFencesMax) {
    for (auto it = fences_.begin(); it != fences_.end();) {
      it = it->first == desired.job_id || it->first == desired_.job_id ? std::next(it)
                                                                       : fences_.erase(it);
    }
  }
  return true;
}

// ---- trainer -----------------------------------------------------------------

void AgentCore::On(const TrainerStarted& event, absl::Time, Actions&) { trainer_.OnStarted(event); }

void AgentCore::On(const TrainerStartFailed& event, absl::Time now, Actions& actions) {
  trainer_.OnStartFailed(event, now, actions);
}

void AgentCore::On(const TrainerReported& event, absl::Time now, Actions& actions) {
  trainer_.OnReport(event, now, actions);
}

void AgentCore::On(const TrainerLinkEnded& event, absl::Time now, Actions& actions) {
  trainer_.OnLinkEnded(event, now, actions);
}

void AgentCore::On(const TrainerReaped& event, absl::Time now, Actions& actions) {
  trainer_.OnReaped(event, now, actions);
}

void AgentCore::On(const TrainerGroupEmpty& event, absl::Time, Actions&) {
  trainer_.OnGroupEmpty(event);
}

void AgentCore::On(const TrainerOutput& event, absl::Time, Actions& actions) {
  trainer_.OnOutput(event, actions);
}

void AgentCore::On(const SpoolChanged& event, absl::Time, Actions&) {
  unacknowledged_ = event.unacknowledged;
  unsent_ = event.unsent;
  if (event.on_disk) trainer_.RecordsSpooled();
}

// While a trainer of ours lives, and as long as the driver may still list it, the card is in use by
// it: what is seen says nothing of others.
void AgentCore::On(const DeviceSeen& event, absl::Time now, Actions& actions) {
  const std::string before = device_use_ ? device_use_->dirty : "";
  device_use_ = event.use;
  if (trainer_.lives() || now < trainer_lived_ + kListedAfterEnd) device_use_->dirty.clear();
  if (before.empty() == device_use_->dirty.empty()) return;
  const bool clean = device_use_->dirty.empty();
  actions.push_back(LogText{
      clean ? LogLevel::INFO : LogLevel::WARNING,
      clean
          ? "the card is clean"
          : absl::StrCat("the card is dirty, nothing will be placed on it: ", device_use_->dirty)});
}

// ---- ownership ---------------------------------------------------------------

// A quarter of the window, at most a minute, for the emergency checkpoint; the kill comes a little
// before the end.
absl::Time AgentCore::OrphanOrderAt() const {
  const absl::Duration window = session_.orphan_window();
  return session_.owned_since() + window - std::min(absl::Minutes(1), window / 4);
}

absl::Time AgentCore::OrphanKillAt() const {
  const absl::Duration window = session_.orphan_window();
  return session_.owned_since() + window - std::min(absl::Seconds(5), window / 10);
}

void AgentCore::CheckOwnership(absl::Time now, Actions& actions) {
  ownership_deadline_ = absl::InfiniteFuture();
  if (!trainer_.lives()) return;
  if (now < OrphanOrderAt()) {
    ownership_deadline_ = OrphanOrderAt();
    return;
  }
  trainer_.Orphan(now, actions);
  if (now < OrphanKillAt()) {
    ownership_deadline_ = OrphanKillAt();
    return;
  }
  trainer_.Kill(absl::StrCat("no coordinator for ", absl::FormatDuration(session_.orphan_window())),
                now, actions);
}

// ---- leaving -----------------------------------------------------------------

void AgentCore::On(const ShutdownRequested&, absl::Time now, Actions& actions) {
  const bool again = leaving_;
  Leave(0, "asked to leave", again ? now : now + options_.drain_grace);
  // Nobody is there to drain the job: the trainer saves an emergency checkpoint by itself.
  if (!session_.heard()) trainer_.Orphan(now, actions);
}

void AgentCore::Leave(int exit_code, const std::string& why, absl::Time deadline) {
  leave_deadline_ = std::min(leave_deadline_, deadline);
  if (leaving_) return;
  leaving_ = true;
  exit_code_ = exit_code;
  exit_why_ = why;
}

void AgentCore::CheckLeaving(absl::Time now, Actions& actions) {
  if (!leaving_) return;
  if (trainer_.lives()) {
    if (now >= leave_deadline_) {
      trainer_.Kill(exit_why_, now, actions);
      unkillable_deadline_ = std::min(unkillable_deadline_, leave_deadline_ + kUnkillable);
      leave_deadline_ = absl::InfiniteFuture();  // used up
    }
    if (now < unkillable_deadline_) return;
  } else {
    linger_deadline_ = std::min(linger_deadline_, now + options_.linger);
    const bool told = unacknowledged_ == 0 && session_.Acknowledged(Observed());
    if (!told && session_.heard() && now < linger_deadline_) return;
  }
  actions.push_back(ExitAgent{exit_code_, exit_why_});
  exited_ = true;
}

}  // namespace vitscale::agent
