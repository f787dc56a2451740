#include "server/api/coordinator.h"

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/base/await.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "proto/spec/job_spec.h"
#include "server/api/start_point.h"
#include "server/core/convert.h"
#include "worker/config/job_config.h"

namespace vitscale {
namespace {

constexpr absl::Duration kSnapshotInterval = absl::Seconds(1);

}  // namespace

Coordinator::Coordinator(Options options, std::unique_ptr<ControlStore> control,
                         std::unique_ptr<StepStore> steps, Random& random, Clock& clock)
    : options_(std::move(options)),
      control_(std::move(control)),
      steps_(std::move(steps)),
      random_(random),
      clock_(clock),
      start_time_(clock.Now()),
      metrics_(std::make_unique<CoordinatorMetrics>(control_->term())) {}

Coordinator::~Coordinator() { Stop(); }

absl::Status Coordinator::Start() {
  VITSCALE_RETURN_IF_ERROR(options_.core.Check());
  VITSCALE_ASSIGN_OR_RETURN(LoadedState state, control_->Load());
  VITSCALE_ASSIGN_OR_RETURN(marks_, control_->LoadMarks());
  for (JobRow& row : state.jobs) {
    // Steps are durable on their own: the newest may be younger than the row.
    if (IsActive(row.job().state())) {
      VITSCALE_ASSIGN_OR_RETURN(v1::StepRecord newest, steps_->Newest(row.job().id()));
      if (newest.step() > 0) {
        row.mutable_job()->set_step(newest.step());
        *row.mutable_job()->mutable_last_step() = std::move(newest);
      }
    }
    directory_.Publish(row);
  }
  metrics_->Load(state.jobs);
  {
    absl::MutexLock lock(&mutex_);
    for (const WorkerRow& row : state.workers) {
      credentials_[row.credential()] = {row.worker().id(), row.worker().incarnation()};
    }
  }
  core_ = std::make_unique<Core>(options_.core, random_, std::move(state), Now());
  SnapshotWorkers();
  control_->Start({[this](ControlStore::Committed committed) {
                     auto shared = std::make_shared<ControlStore::Committed>(std::move(committed));
                     Post([this, shared] { OnCommitted(std::move(*shared)); });
                   },
                   [this](bool writable) {
                     metrics_->SetWritable(writable);
                     Post([this, writable] { Handle(StoreStateEvent{writable}); });
                     absl::MutexLock lock(&mutex_);
                     writable_ = writable;
                   }});
  steps_->Start({[this](std::map<std::string, StepStore::JobChange> changes) {
    auto shared = std::make_shared<std::map<std::string, StepStore::JobChange>>(std::move(changes));
    Post([this, shared] {
      for (auto& [job, change] : *shared) {
        metrics_->StepsStored(change.stored);
        if (change.steps.newest.has_value() || !change.steps.evals.empty()) Handle(change.steps);
        hub_.Notify(job);
      }
    });
  }});
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void Coordinator::RefuseAfter(absl::Duration grace) {
  absl::MutexLock lock(&mutex_);
  refuse_at_ = clock_.Monotonic() + grace;
  tasks_.push_back([] {});  // wakes the loop, which then waits for the new deadline
}

void Coordinator::RefuseOutstanding() {
  const std::map<Token, Answerer> outstanding = std::exchange(answerers_, {});
  for (const auto& [token, answerer] : outstanding) {
    answerer({token, absl::UnavailableError("the coordinator stops; retry"), {}});
  }
}

void Coordinator::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
  control_->Stop();
  steps_->Stop();
  hub_.Stop();
}

// ---- loop --------------------------------------------------------------------

void Coordinator::Post(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
}

void Coordinator::Loop() {
  while (true) {
    std::deque<std::function<void()>> tasks;
    absl::Time deadline = std::min(core_->NextDeadline(), next_snapshot_);
    bool refuse = false;
    {
      absl::MutexLock lock(&mutex_);
      if (refuse_at_ > clock_.Monotonic()) deadline = std::min(deadline, refuse_at_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !tasks_.empty();
      };
      AwaitFor(mutex_, absl::Condition(&ready),
               std::max(absl::ZeroDuration(), deadline - clock_.Monotonic()));
      if (stopping_) return;
      tasks.swap(tasks_);
      refuse = refuse_at_ <= clock_.Monotonic();
    }
    for (std::function<void()>& task : tasks) task();
    if (core_->NextDeadline() <= clock_.Monotonic()) Handle(TickEvent{});
    if (next_snapshot_ <= clock_.Monotonic()) SnapshotWorkers();
    if (refuse) RefuseOutstanding();
  }
}

void Coordinator::SnapshotWorkers() {
  next_snapshot_ = clock_.Monotonic() + kSnapshotInterval;
  std::vector<v1::Worker> workers = core_->Workers();
  metrics_->SetWorkers(workers);
  absl::MutexLock lock(&mutex_);
  workers_ = std::move(workers);
}

std::vector<v1::Worker> Coordinator::WorkersSnapshot() const {
  absl::MutexLock lock(&mutex_);
  return workers_;
}

void Coordinator::Handle(const Event& event) {
  const int64_t rounds = core_->schedule_rounds();
  const absl::Time start = clock_.Monotonic();
  std::vector<Action> actions = core_->Handle(event, Now());
  if (core_->schedule_rounds() != rounds) metrics_->SchedulerCycle(clock_.Monotonic() - start);
  for (Action& action : actions) Do(std::move(action));
}

void Coordinator::Do(Action action) {
  if (auto* persist = std::get_if<PersistAction>(&action)) {
    control_->Commit(std::move(*persist));
  } else if (auto* answer = std::get_if<AnswerAction>(&action)) {
    const auto it = answerers_.find(answer->token);
    if (it == answerers_.end()) return;
    const Answerer answerer = std::move(it->second);
    answerers_.erase(it);
    answerer(std::move(*answer));
  } else if (auto* send = std::get_if<SendAction>(&action)) {
    const auto it = sessions_.find(send->session);
    if (it == sessions_.end()) return;
    if (send->acknowledged_message > 0)
      it->second.acknowledged_message = send->acknowledged_message;
    it->second.refused = send->refused;
    it->second.desired = send->desired;
    SendTo(it->second);
  } else if (auto* close = std::get_if<CloseSessionAction>(&action)) {
    const auto it = sessions_.find(close->session);
    if (it == sessions_.end()) return;
    it->second.stream->Close(close->why);
    sessions_.erase(it);
  } else if (auto* publish = std::get_if<PublishAction>(&action)) {
    directory_.Publish(std::move(publish->row));
  }
}

void Coordinator::SendTo(AgentSession& session) {
  if (session.desired == nullptr) return;
  v1::CoordinatorMessage message;
  message.set_term(term());
  message.set_acknowledged_message(session.acknowledged_message);
  message.set_acknowledged_record(session.acknowledged_record);
  message.set_refused(session.refused);
  *message.mutable_desired() = *session.desired;
  session.stream->Send(std::move(message));
}

// A transaction is durable: readers see it, watchers hear of it, then the core lets go what waited
// for it.
void Coordinator::OnCommitted(ControlStore::Committed committed) {
  metrics_->Committed(committed.changes, committed.took);
  bool joined = false;
  for (const WorkerRow& row : committed.changes.workers) {
    absl::MutexLock lock(&mutex_);
    auto& [id, incarnation] = credentials_[row.credential()];
    joined = joined || id.empty();
    id = row.worker().id();
    incarnation = row.worker().incarnation();
  }
  if (joined) SnapshotWorkers();  // before it is told so
  std::set<std::string> jobs;
  for (const v1::Event& event : committed.changes.events) {
    jobs.insert(event.job_id());
    if (event.job_id().empty()) continue;
    const bool tells = event.kind() == "state_changed" || event.kind() == "generation_broken" ||
                       event.kind() == "generation_formed" || event.kind() == "intent_changed" ||
                       event.kind() == "stop_deadline" || event.kind() == "preempted";
    if (!tells) continue;
    v1::LogLine line;
    *line.mutable_time() = event.time();
    line.set_rank(-1);
    line.set_attempt(event.attempt());
    line.set_text(
        event.kind() == "state_changed"
            ? absl::StrCat(JobStateName(event.from()), " -> ", JobStateName(event.to()), " (",
                           event.reason(), ", by ", event.actor().name(), "): ", event.message())
            : absl::StrCat(event.kind(),
                           event.reason().empty() ? "" : absl::StrCat(" (", event.reason(), ")"),
                           ": ", event.message()));
    steps_->AddLog(event.job_id(), std::move(line));
  }
  for (JobRow& row : committed.changes.jobs) {
    jobs.insert(row.job().id());
    directory_.Publish(std::move(row));
  }
  Handle(CommittedEvent{committed.id});
  for (const std::string& job : jobs) hub_.Notify(job);
}

// ---- reads -------------------------------------------------------------------

absl::StatusOr<v1::Job> Coordinator::GetJob(const std::string& id_or_name) const {
  VITSCALE_ASSIGN_OR_RETURN(const auto row, directory_.Find(id_or_name));
  return JobAt(*row, clock_.Now());
}

absl::StatusOr<v1::ListJobsResponse> Coordinator::ListJobs(
    const v1::ListJobsRequest& request) const {
  return directory_.List(request, clock_.Now());
}

void Coordinator::SetMetricsAddress(std::string address) {
  absl::MutexLock lock(&mutex_);
  metrics_address_ = std::move(address);
}

v1::ServerInfo Coordinator::Info() const {
  v1::ServerInfo info;
  info.set_version(kVersion);
  info.set_revision(Revision());
  info.set_term(term());
  *info.mutable_start_time() = ToProto(start_time_);
  absl::MutexLock lock(&mutex_);
  info.set_metrics_address(metrics_address_);
  info.set_writable(writable_);
  return info;
}

}  // namespace vitscale
