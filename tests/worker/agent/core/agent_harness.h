// Drives an AgentCore without a shell: a fixed clock, the actions of the last event, and short
// forms of the events.

#ifndef TESTS_WORKER_AGENT_CORE_AGENT_HARNESS_H_
#define TESTS_WORKER_AGENT_CORE_AGENT_HARNESS_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/random.h"
#include "worker/agent/core/agent_core.h"

namespace vitscale::agent {

inline link::DesiredState Want(link::Stage stage, int64_t generation, int64_t attempt = 1,
                               const std::string& job = "job") {
  link::DesiredState desired;
  desired.job_id = job;
  desired.attempt = attempt;
  desired.generation = generation;
  desired.stage = stage;
  desired.grace_seconds = 20;
  return desired;
}

inline link::DesiredState Idle() {
  link::DesiredState desired;
  desired.stage = link::Stage::kIdle;
  return desired;
}

class AgentHarness {
 public:
  static constexpr absl::Duration kHeartbeat = absl::Seconds(2);
  static constexpr absl::Duration kLease = absl::Seconds(15);
  static constexpr absl::Duration kWindow = absl::Minutes(10);

  AgentHarness() : random_(SeededRandom(1)), core_(Options(), *random_) {}

  static AgentOptions Options() {
    AgentOptions options;
    options.trainer.setup.worker_id = "w0";
    options.trainer.setup.device = "cpu0";
    return options;
  }

  // Handles one event; every action is also answered the way a well-behaved shell does (see
  // Answer).
  void Do(const Event& event) {
    actions_.clear();
    Run(event);
  }

  // Lets time pass, calling Tick at every deadline, as the shell does.
  void Pass(absl::Duration duration) {
    actions_.clear();
    const absl::Time end = now_ + duration;
    int calls = 0;
    while (core_.NextDeadline() <= end) {
      ASSERT_LT(++calls, 100000) << "the core asks to be called without end";
      now_ = std::max(now_, core_.NextDeadline());
      Run(Tick{});
    }
    now_ = end;
  }

  // Registered and heard by the coordinator.
  void Connect(int64_t term = 1) {
    Do(Tick{});
    ASSERT_TRUE(Last<Register>());
    Do(Registered{Last<Register>()->session, "credential", term, kHeartbeat, kLease, kWindow});
    ASSERT_TRUE(Last<OpenSession>());
    Say(std::nullopt, term);
  }

  // The coordinator acknowledges everything sent so far, and wants `desired`.
  void Say(std::optional<link::DesiredState> desired, int64_t term = 1) {
    Do(CoordinatorSays{core_.session().session(), term, core_.session().last_message(),
                       std::move(desired), 0});
  }
  // Time passes; the coordinator answers every heartbeat.
  void PassConnected(absl::Duration duration) {
    std::vector<Action> all;
    for (absl::Duration step; duration > absl::ZeroDuration(); duration -= step) {
      step = std::min(duration, absl::Seconds(1));
      Pass(step);
      all.insert(all.end(), actions_.begin(), actions_.end());
      Say(std::nullopt);
      all.insert(all.end(), actions_.begin(), actions_.end());
      if (reports_) Report({});
    }
    actions_ = std::move(all);
  }

  // A running trainer for `desired` that has reported.
  void RunTrainer(const link::DesiredState& desired) {
    Say(desired);
    ASSERT_TRUE(Last<StartTrainer>());
    Report({});
  }

  void Report(link::ObservedState observed) {
    Do(TrainerReported{trainer_, {.observed = std::move(observed)}});
  }
  void Die(int exit_code) {
    std::vector<Action> all;
    Do(TrainerReaped{trainer_, exit_code});
    all = actions_;
    Do(TrainerGroupEmpty{trainer_});
    actions_.insert(actions_.begin(), all.begin(), all.end());
  }

  template <typename T>
  std::vector<T> All() const {
    std::vector<T> found;
    for (const Action& action : actions_) {
      if (const T* match = std::get_if<T>(&action)) found.push_back(*match);
    }
    return found;
  }
  template <typename T>
  std::optional<T> Last() const {
    auto all = All<T>();
    return all.empty() ? std::nullopt : std::optional<T>(all.back());
  }
  std::string Logged() const {
    std::string text;
    for (const LogText& log : All<LogText>()) text += log.text + "\n";
    return text;
  }
  // All records spooled by the last call that hold a T.
  template <typename T>
  std::vector<T> Spooled() const {
    std::vector<T> found;
    for (const SpoolRecords& spool : All<SpoolRecords>()) {
      for (const link::SpooledRecord& record : spool.records) {
        if (const T* match = std::get_if<T>(&record.record)) found.push_back(*match);
      }
    }
    return found;
  }

  AgentCore& core() { return core_; }
  absl::Time now() const { return now_; }
  int64_t trainer() const { return trainer_; }
  void set_reports(bool reports) { reports_ = reports; }
  void set_starts(bool starts) { starts_ = starts; }
  void Sleep(absl::Duration duration) { now_ += duration; }  // without any call

 private:
  void Run(const Event& event) {
    for (Action& action : core_.Handle(event, now_)) {
      actions_.push_back(action);
      if (const auto* start = std::get_if<StartTrainer>(&action); start && starts_) {
        trainer_ = start->trainer;
        Run(TrainerStarted{trainer_, 1000 + trainer_});
      }
    }
  }

  std::unique_ptr<Random> random_;
  AgentCore core_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::vector<Action> actions_;
  int64_t trainer_ = 0;
  bool reports_ = true;
  bool starts_ = true;
};

}  // namespace vitscale::agent

#endif  // TESTS_WORKER_AGENT_CORE_AGENT_HARNESS_H_
