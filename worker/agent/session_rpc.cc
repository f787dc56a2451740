#include "worker/agent/session_rpc.h"

#include <chrono>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "kernels/base/await.h"
#include "proto/rpc/channel_rpc.h"
#include "vitscale/v1/worker_service.grpc.pb.h"
#include "worker/agent/session_errors.h"
#include "worker/link/codec_messages.h"

namespace vitscale::agent {
namespace {

constexpr std::chrono::seconds kRegisterDeadline(10);
constexpr char kCredentialKey[] = "vitscale-credential";

absl::Status ToAbsl(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

std::string Describe(const std::string& coordinator, const absl::Status& status) {
  return absl::StrCat("coordinator ", coordinator, ": ",
                      status.ok() ? "it ended the session" : status.message());
}

// Calls that are not finished: the owner waits for them before it lets go of the channel. Each call
// is counted until its context is destroyed: contexts hold the channel too, and the last holder of
// a channel must not be a thread of gRPC, which would then wait for its own end (gRPC 1.51 aborts
// there).
class Outstanding {
 public:
  void Add() {
    absl::MutexLock lock(&mutex_);
    ++count_;
  }
  void Remove() {
    absl::MutexLock lock(&mutex_);
    --count_;
  }
  bool WaitForNone(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    return AwaitFor(mutex_,
                    absl::Condition(
                        +[](int* count) { return *count == 0; }, &count_),
                    timeout);
  }

 private:
  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One stream. Lives until OnDone, kept by itself; a hold keeps gRPC from calling OnDone while the
// loop may write.
class Stream : public grpc::ClientBidiReactor<v1::AgentMessage, v1::CoordinatorMessage>,
               public std::enable_shared_from_this<Stream> {
 public:
  Stream(int64_t session, std::string coordinator, CoordinatorSink sink, Outstanding& outstanding)
      : session_(session),
        coordinator_(std::move(coordinator)),
        sink_(std::move(sink)),
        outstanding_(outstanding) {}

  void Start(v1::WorkerService::Stub& stub, const std::string& credential) {
    self_ = shared_from_this();
    outstanding_.Add();
    context_.AddMetadata(kCredentialKey, credential);
    stub.async()->Session(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  int64_t session() const { return session_; }

  bool CanSend() {
    absl::MutexLock lock(&mutex_);
    return held_ && !writing_ && !finishing_;
  }

  void Send(const v1::AgentMessage& message) {
    absl::MutexLock lock(&mutex_);
    if (!held_ || writing_ || finishing_) return;
    outgoing_ = message;
    writing_ = true;
    StartWrite(&outgoing_);
  }

  // Nobody wants to hear of it any more.
  void Cancel() {
    {
      absl::MutexLock lock(&mutex_);
      silent_ = true;
    }
    context_.TryCancel();
  }

  void Finish() {
    absl::MutexLock lock(&mutex_);
    silent_ = true;
    finishing_ = true;
    if (held_ && !writing_) StartWritesDone();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(held_, false)) RemoveHold();
      return;
    }
    CoordinatorSays says{.session = session_,
                         .term = incoming_.term(),
                         .acknowledged_message = incoming_.acknowledged_message(),
                         .acknowledged_record = incoming_.acknowledged_record()};
    if (incoming_.has_desired()) says.desired = link::FromProto(incoming_.desired());
    sink_.event(std::move(says));
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (ok && finishing_ && held_) StartWritesDone();
    }
    if (ok) sink_.can_send();
  }

  void OnDone(const grpc::Status& result) override {
    std::shared_ptr<Stream> self = std::move(self_);
    Outstanding& outstanding = outstanding_;
    bool silent;
    {
      absl::MutexLock lock(&mutex_);
      silent = silent_;
    }
    if (const absl::Status status = ToAbsl(result); !silent) {
      sink_.event(SessionFailed{session_, StreamError(status), Describe(coordinator_, status)});
    }
    self.reset();
    outstanding.Remove();
  }

 private:
  const int64_t session_;
  const std::string coordinator_;
  const CoordinatorSink sink_;
  Outstanding& outstanding_;
  grpc::ClientContext context_;
  v1::CoordinatorMessage incoming_;
  v1::AgentMessage outgoing_;
  std::shared_ptr<Stream> self_;
  absl::Mutex mutex_;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  bool silent_ ABSL_GUARDED_BY(mutex_) = false;
};

// One call of Register, owned by its callback.
struct RegisterCall {
  grpc::ClientContext context;
  v1::RegisterResponse response;
};

class GrpcCoordinator : public CoordinatorLink {
 public:
  GrpcCoordinator(const Address& address, const v1::RegisterRequest& registration,
                  CoordinatorSink sink)
      : coordinator_(address.ToString()),
        registration_(registration),
        sink_(std::move(sink)),
        stub_(v1::WorkerService::NewStub(MakeChannel(address))) {}

  ~GrpcCoordinator() override {
    if (stream_ != nullptr) stream_->Cancel();
    outstanding_.WaitForNone(absl::InfiniteDuration());
  }

  void Register(int64_t session) override {
    auto call = std::make_shared<RegisterCall>();
    call->context.set_deadline(std::chrono::system_clock::now() + kRegisterDeadline);
    outstanding_.Add();
    RegisterCall* const raw =
        call.get();  // the lambda may be gone, and `call` with it, when this returns
    stub_->async()->Register(&raw->context, &registration_, &raw->response,
                             [this, call = std::move(call), session](grpc::Status status) mutable {
                               OnRegistered(session, ToAbsl(status), call->response);
                               call.reset();
                               outstanding_.Remove();
                             });
  }

  void Open(int64_t session, const std::string& credential) override {
    stream_ = std::make_shared<Stream>(session, coordinator_, sink_, outstanding_);
    stream_->Start(*stub_, credential);
  }

  void Close(int64_t session) override {
    if (Mine(session)) stream_->Cancel();
  }

  bool CanSend(int64_t session) override { return Mine(session) && stream_->CanSend(); }

  void Send(int64_t session, const v1::AgentMessage& message) override {
    if (Mine(session)) stream_->Send(message);
  }

  void Finish(absl::Duration timeout) override {
    if (stream_ == nullptr) return;
    stream_->Finish();
    outstanding_.WaitForNone(timeout);
  }

 private:
  bool Mine(int64_t session) const { return stream_ != nullptr && stream_->session() == session; }

  void OnRegistered(int64_t session, const absl::Status& status,
                    const v1::RegisterResponse& response) {
    if (!status.ok()) {
      sink_.event(
          SessionFailed{session, RegistrationError(status), Describe(coordinator_, status)});
      return;
    }
    sink_.event(Registered{session, response.credential(), response.term(),
                           absl::Seconds(response.heartbeat_seconds()),
                           absl::Seconds(response.lease_seconds()),
                           absl::Seconds(response.orphan_window_seconds())});
  }

  const std::string coordinator_;
  const v1::RegisterRequest registration_;
  const CoordinatorSink sink_;
  const std::unique_ptr<v1::WorkerService::Stub> stub_;
  Outstanding outstanding_;
  std::shared_ptr<Stream> stream_;  // of the loop's thread
};

}  // namespace

std::unique_ptr<CoordinatorLink> ConnectCoordinator(const Address& address,
                                                    const v1::RegisterRequest& registration,
                                                    CoordinatorSink sink) {
  return std::make_unique<GrpcCoordinator>(address, registration, std::move(sink));
}

}  // namespace vitscale::agent
