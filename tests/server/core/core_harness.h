// A core with simulated agents: a fake clock, commits when the test says so (by default at once),
// and agents that follow their desired state one stage per heartbeat.

#ifndef TESTS_SERVER_CORE_CORE_HARNESS_H_
#define TESTS_SERVER_CORE_CORE_HARNESS_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/base/clock.h"
#include "kernels/base/random.h"
#include "server/core/core.h"

namespace vitscale {

// One worker as the coordinator sees it.
struct SimulatedAgent {
  std::string id;
  int life = 1;
  SessionId session = 0;
  bool connected = false;
  bool frozen = false;  // its trainer does nothing by itself
  v1::DesiredState desired;
  v1::ObservedState observed;
  int64_t message = 0;
  int64_t next_pid = 100;
  std::optional<v1::DeviceInfo> device;     // none: a CPU
  std::optional<v1::DeviceUse> device_use;  // of a CPU: none; of a card: clean
  bool card_unread = false;                 // nobody has looked at the card

  std::string incarnation() const { return absl::StrCat(id, "-life", life); }
};

class CoreHarness {
 public:
  explicit CoreHarness(CoreOptions options = ShortOptions()) : options_(options) { Start({}); }

  static CoreOptions ShortOptions() {
    CoreOptions options;
    options.schedule_interval = absl::ZeroDuration();
    return options;
  }

  void Start(LoadedState state) {
    core_ = std::make_unique<Core>(options_, *random_, std::move(state), Now());
  }

  Moment Now() { return {clock_.Monotonic(), clock_.Now()}; }
  Core& core() { return *core_; }
  FakeClock& clock() { return clock_; }

  // ---- running ----------------------------------------------------------------
  void Handle(const Event& event) {
    for (Action& action : core_->Handle(event, Now())) Do(std::move(action));
    while (auto_commit_ && !uncommitted_.empty()) Commit();
  }
  // Makes the oldest transaction durable.
  void Commit() {
    const PersistAction persist = uncommitted_.front();
    uncommitted_.erase(uncommitted_.begin());
    for (const JobRow& row : persist.changes.jobs) stored_jobs_[row.job().id()] = row;
    for (const WorkerRow& row : persist.changes.workers) stored_workers_[row.worker().id()] = row;
    for (const std::string& id : persist.changes.removed_workers) stored_workers_.erase(id);
    for (const v1::Event& event : persist.changes.events) events_.push_back(event);
    Handle(CommittedEvent{persist.id});
  }
  void SetAutoCommit(bool on) { auto_commit_ = on; }
  std::vector<PersistAction>& uncommitted() { return uncommitted_; }

  // Moves time in small steps, with ticks at deadlines and heartbeats of all connected agents.
  void Run(absl::Duration duration) {
    const absl::Time end = clock_.Monotonic() + duration;
    while (clock_.Monotonic() < end) {
      clock_.Advance(absl::Milliseconds(100));
      if (core_->NextDeadline() <= clock_.Monotonic()) Handle(TickEvent{});
      if (++ticks_ % 5 == 0) {
        for (auto& [id, agent] : agents_) Heartbeat(agent);
      }
    }
  }

  // ---- agents -----------------------------------------------------------------
  SimulatedAgent& NewAgent(const std::string& id) {
    SimulatedAgent& agent = agents_[id];
    agent.id = id;
    return agent;
  }
  SimulatedAgent& AddAgent(const std::string& id) {
    SimulatedAgent& agent = NewAgent(id);
    Connect(agent);
    return agent;
  }
  SimulatedAgent& agent(const std::string& id) { return agents_.at(id); }

  v1::RegisterRequest Registration(const SimulatedAgent& agent) {
    v1::RegisterRequest request;
    request.set_protocol_version(1);
    request.set_worker_id(agent.id);
    request.set_incarnation(agent.incarnation());
    request.set_incarnation_start_millis(agent.life);
    request.mutable_device()->set_kind(v1::DEVICE_CPU);
    request.mutable_device()->set_name("cpu0");
    request.mutable_device()->set_instruction_set("avx512_bf16");
    request.mutable_device()->set_bf16(true);
    if (agent.device.has_value()) *request.mutable_device() = *agent.device;
    request.set_device_lock_held(true);
    return request;
  }
  void Connect(SimulatedAgent& agent) {
    Handle(RegisterEvent{next_token_++, Registration(agent)});
    agent.session = next_session_++;
    agent.connected = true;
    Handle(SessionOpenedEvent{agent.session, agent.id, agent.incarnation()});
    Heartbeat(agent);
  }
  void Disconnect(SimulatedAgent& agent) {
    agent.connected = false;
    Handle(SessionClosedEvent{agent.session, agent.id});
  }
  // kill -9 of agent and trainer.
  void Crash(SimulatedAgent& agent) {
    Disconnect(agent);
    agent.observed.Clear();
    agent.desired.Clear();
    ++agent.life;
  }
  void KillTrainer(SimulatedAgent& agent, int exit_code = 137, const std::string& error = "") {
    agent.observed.set_stage(v1::STAGE_EXIT);
    agent.observed.set_exited(true);
    agent.observed.set_exit_code(exit_code);
    agent.observed.set_error(error);
    agent.observed.set_trainer_pid(0);
    Report(agent);
  }
  void Report(SimulatedAgent& agent) {
    if (!agent.connected) return;
    const bool card = agent.device.has_value() && agent.device->kind() == v1::DEVICE_CUDA;
    if (card && !agent.card_unread && !agent.device_use.has_value()) agent.device_use.emplace();
    if (agent.device_use.has_value()) *agent.observed.mutable_device_use() = *agent.device_use;
    Handle(ReportEvent{agent.session, agent.id, core_->term(), ++agent.message, agent.observed});
  }
  void Heartbeat(SimulatedAgent& agent) {
    if (!agent.connected) return;
    Report(agent);
    if (!agent.frozen) Follow(agent);
  }

  // ---- users ------------------------------------------------------------------
  static v1::JobSpec Spec(int workers, int priority = 0) {
    v1::JobSpec spec;
    spec.set_name("job");
    spec.set_priority(priority);
    spec.mutable_resources()->mutable_workers()->set_min(workers);
    spec.mutable_resources()->mutable_workers()->set_max(workers);
    spec.mutable_resources()->set_device(v1::DEVICE_CPU);
    spec.set_grace("20s");
    return spec;
  }
  std::string Submit(const v1::JobSpec& spec, const std::string& request_id = "",
                     uint64_t hash = 1) {
    const Token token = next_token_++;
    Handle(SubmitEvent{{token, request_id, hash, "uid:1"}, spec});
    const auto answer = TakeAnswer(token);
    if (!answer.has_value() || !answer->status.ok()) return "";
    return std::get<v1::Job>(answer->body).id();
  }
  absl::Status SetIntent(const std::string& job, v1::Intent intent) {
    const Token token = next_token_++;
    Handle(IntentEvent{{token, "", 0, "uid:1"}, job, intent, ""});
    const auto answer = TakeAnswer(token);
    return answer.has_value() ? answer->status : absl::UnknownError("not answered");
  }
  std::optional<AnswerAction> TakeAnswer(Token token) {
    const auto it = answers_.find(token);
    if (it == answers_.end()) return std::nullopt;
    AnswerAction answer = it->second;
    answers_.erase(it);
    return answer;
  }
  Token NextToken() { return next_token_++; }

  const v1::Job& job(const std::string& id) { return core_->FindJob(id)->job(); }
  v1::JobState state(const std::string& id) { return job(id).state(); }
  const std::vector<v1::Event>& events() const { return events_; }
  int CountEvents(const std::string& kind, const std::string& reason = "") const {
    int count = 0;
    for (const v1::Event& event : events_) {
      if (event.kind() == kind && (reason.empty() || event.reason() == reason)) ++count;
    }
    return count;
  }
  // What a coordinator that starts now finds in its store.
  LoadedState Stored() const {
    LoadedState state;
    state.term = core_->term() + 1;
    for (const auto& [id, row] : stored_jobs_) {
      state.jobs.push_back(row);
      state.last_job_number = std::max(state.last_job_number, row.number());
    }
    for (const auto& [id, row] : stored_workers_) state.workers.push_back(row);
    return state;
  }
  // kill -9 of the coordinator and a new one; agents reconnect when told.
  void Restart() {
    LoadedState state = Stored();
    uncommitted_.clear();
    for (auto& [id, agent] : agents_) agent.connected = false;
    Start(std::move(state));
  }
  int64_t steps_total = 1000000;

 private:
  void Do(Action action) {
    if (auto* persist = std::get_if<PersistAction>(&action))
      uncommitted_.push_back(std::move(*persist));
    if (auto* answer = std::get_if<AnswerAction>(&action))
      answers_[answer->token] = std::move(*answer);
    if (auto* send = std::get_if<SendAction>(&action)) {
      for (auto& [id, agent] : agents_) {
        if (agent.connected && agent.session == send->session) agent.desired = *send->desired;
      }
    }
    if (auto* close = std::get_if<CloseSessionAction>(&action)) {
      for (auto& [id, agent] : agents_) {
        if (agent.session == close->session) agent.connected = false;
      }
    }
  }

  // One stage towards what is desired, as agent and trainer would.
  void Follow(SimulatedAgent& agent) {
    const v1::DesiredState& desired = agent.desired;
    v1::ObservedState& observed = agent.observed;
    if (desired.job_id().empty()) {
      observed.Clear();
      observed.set_stage(v1::STAGE_IDLE);
      observed.set_device_free(true);
      return;
    }
    const bool mine =
        observed.job_id() == desired.job_id() && observed.attempt() == desired.attempt();
    if (desired.stage() == v1::STAGE_EXIT) {
      if (!mine) observed.Clear();
      observed.set_job_id(desired.job_id());
      observed.set_attempt(desired.attempt());
      return Exit(observed, observed.finished() ? 0 : 76);
    }
    if (!mine || observed.trainer_pid() == 0) {
      if (mine && observed.exited() && observed.exit_code() < 128 && observed.exit_code() != 82) {
        if (desired.generation() <= observed.generation()) return;  // restarts only for a new one
      }
      observed.Clear();
      observed.set_job_id(desired.job_id());
      observed.set_attempt(desired.attempt());
      observed.set_trainer_pid(agent.next_pid++);
      observed.set_stage(v1::STAGE_PREPARE);
      observed.set_data_address(absl::StrCat("127.0.0.1:", observed.trainer_pid()));
      observed.set_total_steps(steps_total);
      return;
    }
    if (desired.generation() > observed.promised_generation() &&
        desired.stage() >= v1::STAGE_FORM) {
      observed.set_promised_generation(desired.generation());
      observed.set_generation(desired.generation());
      observed.set_stage(v1::STAGE_FORM);
      observed.set_collective_failed(false);
      return;
    }
    if (observed.generation() != desired.generation()) return;
    if (desired.stage() == v1::STAGE_GO && observed.stage() == v1::STAGE_FORM) {
      observed.set_stage(v1::STAGE_GO);
      observed.set_step(desired.source().version().step());
      observed.set_committed_step(observed.step());
      return;
    }
    if (observed.stage() != v1::STAGE_GO || observed.collective_failed()) return;
    if (desired.intent() != v1::INTENT_RUN) return Exit(observed, 75);
    observed.set_committed_step(observed.step());
    observed.set_step(observed.step() + 1);
    if (observed.step() >= steps_total) {
      observed.set_finished(true);
      observed.set_checkpoint(absl::StrCat(observed.job_id(), "/final"));
    }
  }
  static void Exit(v1::ObservedState& observed, int code) {
    if (observed.exited()) return;
    observed.set_stage(v1::STAGE_EXIT);
    observed.set_exited(true);
    observed.set_exit_code(code);
    observed.set_trainer_pid(0);
  }

  CoreOptions options_;
  FakeClock clock_;
  std::unique_ptr<Random> random_ = SeededRandom(1);
  std::unique_ptr<Core> core_;
  std::map<std::string, SimulatedAgent> agents_;
  std::map<Token, AnswerAction> answers_;
  std::vector<PersistAction> uncommitted_;
  bool auto_commit_ = true;
  std::map<std::string, JobRow> stored_jobs_;
  std::map<std::string, WorkerRow> stored_workers_;
  std::vector<v1::Event> events_;
  Token next_token_ = 1;
  SessionId next_session_ = 1;
  int ticks_ = 0;
};

}  // namespace vitscale

#endif  // TESTS_SERVER_CORE_CORE_HARNESS_H_
