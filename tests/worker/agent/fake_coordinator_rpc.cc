#include "tests/worker/agent/fake_coordinator_rpc.h"

#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "kernels/base/status.h"
#include "proto/rpc/channel_rpc.h"
#include "vitscale/v1/worker_service.grpc.pb.h"

namespace vitscale::agent {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

}  // namespace

struct FakeCoordinator::State {
  mutable absl::Mutex mutex;
  Options options ABSL_GUARDED_BY(mutex);
  v1::DesiredState desired ABSL_GUARDED_BY(mutex);
  v1::RegisterRequest registration ABSL_GUARDED_BY(mutex);
  int registrations ABSL_GUARDED_BY(mutex) = 0;
  int sessions ABSL_GUARDED_BY(mutex) = 0;
  std::string credential ABSL_GUARDED_BY(mutex);
  v1::ObservedState observed ABSL_GUARDED_BY(mutex), first_observed ABSL_GUARDED_BY(mutex);
  bool any_observed ABSL_GUARDED_BY(mutex) = false;
  std::vector<v1::SpooledRecord> records ABSL_GUARDED_BY(mutex);
  std::set<std::pair<std::string, int64_t>> seen ABSL_GUARDED_BY(mutex);
  Session* session ABSL_GUARDED_BY(mutex) = nullptr;
};

class FakeCoordinator::Session
    : public grpc::ServerBidiReactor<v1::AgentMessage, v1::CoordinatorMessage> {
 public:
  explicit Session(std::shared_ptr<State> state) : state_(std::move(state)) {
    {
      absl::MutexLock lock(&state_->mutex);
      state_->session = this;
    }
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&state_->mutex);
    if (!ok) {
      End(absl::OkStatus());
      return;
    }
    state_->observed = incoming_.observed();
    if (!state_->any_observed) state_->first_observed = incoming_.observed();
    state_->any_observed = true;
    for (const v1::SpooledRecord& record : incoming_.records()) {
      if (state_->seen.insert({record.incarnation(), record.number()}).second) {
        state_->records.push_back(record);
      }
      newest_record_ = std::max(newest_record_, record.number());
    }
    newest_message_ = incoming_.message_number();
    Send();
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&state_->mutex);
    writing_ = false;
    if (ok && std::exchange(again_, false)) Send();
    if (ended_ && !finished_) Finishing();
  }

  void OnDone() override {
    {
      absl::MutexLock lock(&state_->mutex);
      if (state_->session == this) state_->session = nullptr;
    }
    delete this;
  }

  void Send() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex) {
    if (ended_) return;
    if (writing_) {
      again_ = true;
      return;
    }
    outgoing_.Clear();
    outgoing_.set_term(state_->options.term);
    outgoing_.set_acknowledged_message(newest_message_);
    *outgoing_.mutable_desired() = state_->desired;
    if (state_->options.acknowledge_records) outgoing_.set_acknowledged_record(newest_record_);
    writing_ = true;
    StartWrite(&outgoing_);
  }

  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex) {
    if (ended_) return;
    ended_ = true;
    end_status_ = status;
    if (!writing_) Finishing();
  }

 private:
  void Finishing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex) {
    finished_ = true;
    Finish(ToGrpc(end_status_));
  }

  const std::shared_ptr<State> state_;
  v1::AgentMessage incoming_;
  v1::CoordinatorMessage outgoing_;
  int64_t newest_message_ = 0, newest_record_ = 0;
  bool writing_ = false, again_ = false, ended_ = false, finished_ = false;
  absl::Status end_status_;
};

class FakeCoordinator::Service : public v1::WorkerService::CallbackService {
 public:
  explicit Service(std::shared_ptr<State> state) : state_(std::move(state)) {}

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::MutexLock lock(&state_->mutex);
    ++state_->registrations;
    state_->registration = *request;
    const Options options = state_->options;
    response->set_credential(absl::StrCat("credential of ", request->incarnation()));
    response->set_term(options.term);
    response->set_heartbeat_seconds(options.heartbeat_seconds);
    response->set_lease_seconds(options.lease_seconds);
    response->set_orphan_window_seconds(options.orphan_window_seconds);
    reactor->Finish(ToGrpc(options.register_status));
    return reactor;
  }

  grpc::ServerBidiReactor<v1::AgentMessage, v1::CoordinatorMessage>* Session(
      grpc::CallbackServerContext* context) override {
    {
      absl::MutexLock lock(&state_->mutex);
      ++state_->sessions;
      const auto found = context->client_metadata().find("vitscale-credential");
      state_->credential = found == context->client_metadata().end()
                               ? ""
                               : std::string(found->second.data(), found->second.size());
    }
    return new FakeCoordinator::Session(state_);
  }

 private:
  const std::shared_ptr<State> state_;
};

struct FakeCoordinator::Server {
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

FakeCoordinator::FakeCoordinator(Options options)
    : state_(std::make_shared<State>()), server_(std::make_unique<Server>()) {
  {
    absl::MutexLock lock(&state_->mutex);
    state_->options = options;
    state_->desired.set_stage(v1::STAGE_IDLE);
  }
  service_ = std::make_unique<Service>(state_);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", options.port), MakeServerCredentials(),
                           &server_->port);
  AllowKeepalive(builder);
  builder.RegisterService(service_.get());
  server_->server = builder.BuildAndStart();
  VITSCALE_CHECK(server_->server != nullptr) << "port " << options.port;
}

FakeCoordinator::~FakeCoordinator() {
  server_->server->Shutdown(std::chrono::system_clock::now());
  server_->server->Wait();
}

int FakeCoordinator::port() const { return server_->port; }
std::string FakeCoordinator::address() const { return absl::StrCat("127.0.0.1:", server_->port); }

// The analysis does not see that a session's state is this one's.
void FakeCoordinator::Want(const v1::DesiredState& desired) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  absl::MutexLock lock(&state_->mutex);
  state_->desired = desired;
  if (state_->session != nullptr) state_->session->Send();
}

bool FakeCoordinator::WaitFor(const std::function<bool(const v1::ObservedState&)>& condition) {
  absl::MutexLock lock(&state_->mutex);
  const auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex) {
    return state_->any_observed && condition(state_->observed);
  };
  return state_->mutex.AwaitWithTimeout(absl::Condition(&holds), kPatience);
}

bool FakeCoordinator::WaitForRecords(
    const std::function<bool(const std::vector<v1::SpooledRecord>&)>& condition) {
  absl::MutexLock lock(&state_->mutex);
  const auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex) {
    return condition(state_->records);
  };
  return state_->mutex.AwaitWithTimeout(absl::Condition(&holds), kPatience);
}

v1::RegisterRequest FakeCoordinator::registration() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->registration;
}
int FakeCoordinator::registrations() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->registrations;
}
int FakeCoordinator::sessions() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->sessions;
}
std::string FakeCoordinator::credential() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->credential;
}
v1::ObservedState FakeCoordinator::first_observed() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->first_observed;
}

v1::ObservedState FakeCoordinator::observed() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->observed;
}
std::vector<v1::SpooledRecord> FakeCoordinator::records() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->records;
}

void FakeCoordinator::SetRegisterStatus(const absl::Status& status) {
  absl::MutexLock lock(&state_->mutex);
  state_->options.register_status = status;
}

void FakeCoordinator::EndSession(const absl::Status& status) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  absl::MutexLock lock(&state_->mutex);
  if (state_->session != nullptr) state_->session->End(status);
}

}  // namespace vitscale::agent
