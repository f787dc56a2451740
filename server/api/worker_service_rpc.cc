#include "server/api/worker_service_rpc.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"

namespace vitscale {
namespace {

constexpr char kService[] = "vitscale.v1.WorkerService";
constexpr char kCredential[] = "vitscale-credential";

// One stream. The next message is read when the coordinator has taken the last one; of messages to
// the agent only the newest waits, since each is whole.
class SessionReactor : public grpc::ServerBidiReactor<v1::AgentMessage, v1::CoordinatorMessage>,
                       public AgentStream,
                       public std::enable_shared_from_this<SessionReactor> {
 public:
  SessionReactor(Coordinator& coordinator, AdmittedCall call)
      : coordinator_(coordinator), call_(std::move(call)) {}

  void Run(const std::string& credential) {
    self_ = shared_from_this();
    absl::Status status = call_.status();
    if (status.ok()) {
      const auto session = coordinator_.OpenSession(credential, self_);
      status = session.status();
      if (session.ok()) session_ = *session;
    }
    if (!status.ok()) return Close(status);
    StartRead(&incoming_);
  }

  // ---- AgentStream, from the coordinator's thread -------------------------------
  void Send(v1::CoordinatorMessage message) override {
    absl::MutexLock lock(&mutex_);
    if (ended_ || end_.has_value()) return;
    if (writing_) {
      next_ = std::move(message);
      return;
    }
    outgoing_ = std::move(message);
    writing_ = true;
    StartWrite(&outgoing_);
  }
  void Close(const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    if (ended_ || end_.has_value()) return;
    end_ = why;
    if (!writing_) End();
  }

  // ---- gRPC ---------------------------------------------------------------------
  void OnReadDone(bool ok) override {
    if (!ok) return Leave(absl::OkStatus());
    coordinator_.Receive(session_, std::move(incoming_), [self = shared_from_this()] {
      absl::MutexLock lock(&self->mutex_);
      if (self->ended_) return;
      self->incoming_.Clear();
      self->StartRead(&self->incoming_);
    });
  }
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (ended_) return;
    if (end_.has_value()) return End();
    if (!ok || !next_.has_value()) return;
    outgoing_ = *std::exchange(next_, std::nullopt);
    writing_ = true;
    StartWrite(&outgoing_);
  }
  void OnCancel() override { Leave(absl::CancelledError("the agent is gone")); }
  void OnDone() override { self_.reset(); }

 private:
  void Leave(const absl::Status& status) {
    if (session_ != 0) coordinator_.CloseSession(session_);
    Close(status);
  }
  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ended_ = true;
    Finish(call_.Done(*end_));
  }

  Coordinator& coordinator_;
  const AdmittedCall call_;
  std::shared_ptr<SessionReactor> self_;
  SessionId session_ = 0;
  v1::AgentMessage incoming_;
  absl::Mutex mutex_;
  v1::CoordinatorMessage outgoing_;
  std::optional<v1::CoordinatorMessage> next_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerUnaryReactor* WorkerServiceRpc::Register(grpc::CallbackServerContext* context,
                                                     const v1::RegisterRequest* request,
                                                     v1::RegisterResponse* response) {
  return Unary(coordinator_, peers_, kService, "Register", context,
               [&](const AdmittedCall&, auto finish) {
                 coordinator_.Register(
                     *request, [response, finish](absl::StatusOr<v1::RegisterResponse> result) {
                       if (result.ok()) *response = *std::move(result);
                       finish(result.status());
                     });
               });
}

grpc::ServerBidiReactor<v1::AgentMessage, v1::CoordinatorMessage>* WorkerServiceRpc::Session(
    grpc::CallbackServerContext* context) {
  std::string credential;
  const auto it = context->client_metadata().find(kCredential);
  if (it != context->client_metadata().end())
    credential.assign(it->second.data(), it->second.size());
  auto reactor = std::make_shared<SessionReactor>(
      coordinator_, AdmittedCall(coordinator_, peers_, kService, "Session", context));
  reactor->Run(credential);
  return reactor.get();
}

}  // namespace vitscale
