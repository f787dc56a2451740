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
constexpr size_t kAttemptsCached = 10000;

// Compares in a time that does not depend on where they differ.
bool SameSecret(const std::string& a, const std::string& b) {
  unsigned difference = static_cast<unsigned>(a.size() ^ b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b[b.empty() ? 0 : i % b.size()]);
  }
  return difference == 0;
}

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
  for (const WorkerRow& row : committed.changes.workers) {
    absl::MutexLock lock(&mutex_);
    credentials_[row.credential()] = {row.worker().id(), row.worker().incarnation()};
  }
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

// ---- mutations ---------------------------------------------------------------

template <typename T>
bool Coordinator::AnsweredBefore(const Caller& caller, const Reply<T>& reply) {
  if (caller.request_id.empty()) return false;
  const auto found = control_->FindRequest(caller.request_id);
  if (!found.ok()) {
    reply(absl::UnavailableError(found.status().message()));
    return true;
  }
  if (!found->has_value()) return false;
  T answer;
  if ((*found)->hash != caller.request_hash || !answer.ParseFromString((*found)->answer)) {
    reply(absl::AlreadyExistsError(
        absl::StrCat("request id '", caller.request_id, "' was used with another request")));
  } else {
    reply(std::move(answer));
  }
  return true;
}

template <typename T>
Token Coordinator::Expect(Reply<T> reply) {
  const Token token = next_token_++;
  answerers_[token] = [reply = std::move(reply)](AnswerAction answer) {
    if (!answer.status.ok()) return reply(answer.status);
    auto* body = std::get_if<T>(&answer.body);
    if (body == nullptr)
      return reply(absl::AlreadyExistsError("the request id was used with another request"));
    reply(std::move(*body));
  };
  return token;
}

RequestMeta Coordinator::MetaOf(const Caller& caller, Token token) const {
  return {token, caller.request_id, caller.request_hash, caller.principal};
}

// Canonical form with a complete `from`, and the micro-batch that fits the smallest worker of the allowed kind.
absl::StatusOr<v1::JobSpec> Coordinator::Admit(const v1::JobSpec& spec) const {
  v1::JobSpec given = spec;
  VITSCALE_RETURN_IF_ERROR(CompleteStart(directory_, *control_, &given));
  VITSCALE_ASSIGN_OR_RETURN(v1::JobSpec canonical, Canonicalize(given));
  VITSCALE_RETURN_IF_ERROR(CheckStartPoint(directory_, canonical));
  const v1::Device wanted = canonical.resources().device();
  int64_t smallest = std::numeric_limits<int64_t>::max();
  for (const v1::Worker& worker : WorkersSnapshot()) {
    const bool kind = wanted == v1::DEVICE_ANY || wanted == v1::DEVICE_UNSPECIFIED ||
                      wanted == worker.device().kind();
    if (kind && worker.device().memory_bytes() > 0)
      smallest = std::min(smallest, worker.device().memory_bytes());
  }
  const int64_t memory = smallest == std::numeric_limits<int64_t>::max() ? 0 : smallest;
  VITSCALE_ASSIGN_OR_RETURN(const std::string fixed, FixMicroBatch(SpecBytes(canonical), memory));
  if (!canonical.ParseFromString(fixed))
    return absl::InternalError("the planner's spec cannot be read");
  return canonical;
}

void Coordinator::Submit(const Caller& caller, const v1::JobSpec& spec, bool validate_only,
                         Reply<v1::Job> reply) {
  if (!validate_only && AnsweredBefore<v1::Job>(caller, reply)) return;
  absl::StatusOr<v1::JobSpec> canonical = Admit(spec);
  if (!canonical.ok()) return reply(canonical.status());
  if (validate_only) {
    v1::Job job;
    *job.mutable_spec() = *std::move(canonical);
    return reply(std::move(job));
  }
  Post([this, caller, spec = *std::move(canonical), reply = std::move(reply)] {
    Handle(SubmitEvent{MetaOf(caller, Expect<v1::Job>(reply)), spec});
  });
}

void Coordinator::SetIntent(const Caller& caller, const v1::SetIntentRequest& request,
                            Reply<v1::Job> reply) {
  if (AnsweredBefore<v1::Job>(caller, reply)) return;
  const auto row = directory_.Find(request.job_id());
  if (!row.ok()) return reply(row.status());
  Post([this, caller, request, id = (*row)->job().id(), reply = std::move(reply)] {
    Handle(
        IntentEvent{MetaOf(caller, Expect<v1::Job>(reply)), id, request.intent(), request.etag()});
  });
}

void Coordinator::UpdateWorker(const Caller& caller, const v1::UpdateWorkerRequest& request,
                               Reply<v1::Worker> reply) {
  if (AnsweredBefore<v1::Worker>(caller, reply)) return;
  Post([this, caller, request, reply = std::move(reply)] {
    UpdateWorkerEvent event{MetaOf(caller, Expect<v1::Worker>(reply)), request.worker_id()};
    event.release = request.action_case() == v1::UpdateWorkerRequest::kRelease && request.release();
    if (request.action_case() == v1::UpdateWorkerRequest::kDrain) event.drain = request.drain();
    Handle(event);
  });
}

void Coordinator::PinCheckpoint(const Caller& caller, const v1::PinCheckpointRequest& request,
                                Reply<v1::CheckpointInfo> reply) {
  if (AnsweredBefore<v1::CheckpointInfo>(caller, reply)) return;
  absl::StatusOr<v1::CheckpointInfo> info = control_->Checkpoint(request.checkpoint_id());
  if (!info.ok()) return reply(info.status());
  if (info->deleted()) {
    return reply(absl::FailedPreconditionError(
        absl::StrCat("checkpoint '", info->id(), "' has been deleted by retention")));
  }
  Post(
      [this, caller, pinned = request.pinned(), info = *std::move(info), reply = std::move(reply)] {
        Handle(PinEvent{MetaOf(caller, Expect<v1::CheckpointInfo>(reply)), info, pinned});
      });
}

void Coordinator::ListWorkers(Reply<std::vector<v1::Worker>> reply) {
  Post([this, reply = std::move(reply)] {
    Handle(ListWorkersEvent{Expect<std::vector<v1::Worker>>(reply)});
  });
}

// ---- agents ------------------------------------------------------------------

void Coordinator::Register(const v1::RegisterRequest& request, Reply<v1::RegisterResponse> reply) {
  if (!options_.join_secret.empty() && !SameSecret(request.join_secret(), options_.join_secret)) {
    return reply(absl::PermissionDeniedError(
        absl::StrCat("worker '", request.worker_id(), "' gave ",
                     request.join_secret().empty() ? "no" : "a wrong", " join secret")));
  }
  v1::RegisterRequest clean = request;
  clean.clear_join_secret();
  Post([this, clean = std::move(clean), reply = std::move(reply)] {
    Reply<Registered> registered = [this, clean, reply](absl::StatusOr<Registered> result) {
      if (!result.ok()) return reply(result.status());
      v1::RegisterResponse response;
      response.set_credential(result->credential);
      response.set_term(term());
      response.set_heartbeat_seconds(absl::ToDoubleSeconds(options_.core.heartbeat));
      response.set_lease_seconds(absl::ToDoubleSeconds(options_.core.lease));
      response.set_orphan_window_seconds(absl::ToDoubleSeconds(options_.core.orphan_window));
      reply(std::move(response));
    };
    Handle(RegisterEvent{Expect<Registered>(std::move(registered)), clean});
  });
}

absl::StatusOr<SessionId> Coordinator::OpenSession(const std::string& credential,
                                                   std::shared_ptr<AgentStream> stream) {
  SessionId id;
  std::pair<std::string, std::string> worker;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = credentials_.find(credential);
    if (credential.empty() || it == credentials_.end()) {
      return absl::UnauthenticatedError("the credential is not known: register first");
    }
    worker = it->second;
    id = next_session_++;
  }
  Post([this, id, worker, stream = std::move(stream)] {
    AgentSession& session = sessions_[id];
    session.stream = stream;
    session.worker_id = worker.first;
    session.incarnation = worker.second;
    Handle(SessionOpenedEvent{id, worker.first, worker.second});
  });
  return id;
}

void Coordinator::CloseSession(SessionId session) {
  Post([this, session] {
    const auto it = sessions_.find(session);
    if (it == sessions_.end()) return;
    const std::string worker_id = it->second.worker_id;
    sessions_.erase(it);
    Handle(SessionClosedEvent{session, worker_id});
  });
}

void Coordinator::Receive(SessionId session, v1::AgentMessage message, std::function<void()> next) {
  auto shared = std::make_shared<v1::AgentMessage>(std::move(message));
  Post([this, session, shared, next = std::move(next)] { ReceiveOnLoop(session, *shared, next); });
}

void Coordinator::ReceiveOnLoop(SessionId id, const v1::AgentMessage& message,
                                std::function<void()> next) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  const std::string worker_id = it->second.worker_id;
  const bool waits = message.records_size() > 0 && TakeRecords(id, it->second, message, next);
  if (message.has_observed()) {
    Handle(
        ReportEvent{id, worker_id, message.term(), message.message_number(), message.observed()});
  }
  if (!waits) next();
}

// True if the next message has to wait because too much is on its way to the disk.
bool Coordinator::TakeRecords(SessionId id, AgentSession& session, const v1::AgentMessage& message,
                              const std::function<void()>& next) {
  std::vector<v1::SpooledRecord> records;
  RecordsEvent control;
  control.worker_id = session.worker_id;
  std::map<std::string, int64_t> marks;
  int64_t highest = 0;
  for (v1::SpooledRecord record : message.records()) {
    highest = std::max(highest, record.number());
    if (record.incarnation().empty()) record.set_incarnation(session.incarnation);
    if (!Owns(session.worker_id, record)) continue;
    if ((record.has_checkpoint() || record.has_event()) &&
        record.number() > marks_[record.incarnation()]) {
      marks[record.incarnation()] = record.number();
      control.records.push_back(record);
    }
    records.push_back(std::move(record));
  }
  const bool waits = steps_->Full();
  session.pending.push_back({highest, control.records.empty() ? 1 : 2});
  if (!control.records.empty()) {
    for (const auto& [incarnation, number] : marks) {
      marks_[incarnation] = number;
      control.marks.push_back({incarnation, number});
    }
    control.token = next_token_++;
    answerers_[control.token] = [this, id, highest](AnswerAction) { RecordsDone(id, highest); };
    Handle(control);
  }
  steps_->Add(session.worker_id, std::move(records), [this, id, highest, waits, next] {
    Post([this, id, highest, waits, next] {
      RecordsDone(id, highest);
      if (waits) next();
    });
  });
  return waits;
}

// Records about an attempt are taken only from a worker that was placed in it.
bool Coordinator::Owns(const std::string& worker_id, const v1::SpooledRecord& record) {
  if (record.job_id().empty()) return record.has_event();
  const auto key = std::make_pair(record.job_id(), record.attempt());
  auto it = attempt_workers_.find(key);
  if (it == attempt_workers_.end()) {
    auto workers = control_->AttemptWorkers(record.job_id(), record.attempt());
    if (!workers.ok() || workers->empty()) return false;
    if (attempt_workers_.size() >= kAttemptsCached) attempt_workers_.clear();
    it = attempt_workers_.emplace(key, *std::move(workers)).first;
  }
  return std::find(it->second.begin(), it->second.end(), worker_id) != it->second.end();
}

void Coordinator::RecordsDone(SessionId id, int64_t number) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  AgentSession& session = it->second;
  for (PendingRecords& pending : session.pending) {
    if (pending.number != number || pending.missing == 0) continue;
    --pending.missing;
    break;
  }
  const int64_t before = session.acknowledged_record;
  while (!session.pending.empty() && session.pending.front().missing == 0) {
    session.acknowledged_record =
        std::max(session.acknowledged_record, session.pending.front().number);
    session.pending.pop_front();
  }
  if (session.acknowledged_record != before) SendTo(session);
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
