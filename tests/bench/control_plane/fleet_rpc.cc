#include "tests/bench/control_plane/fleet_rpc.h"

#include <atomic>
#include <chrono>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "kernels/base/status.h"
#include "proto/rpc/channel_rpc.h"
#include "vitscale/v1/worker_service.grpc.pb.h"

namespace vitscale {

class SimulatedWorker : public grpc::ClientBidiReactor<v1::AgentMessage, v1::CoordinatorMessage> {
 public:
  absl::Status Join(const Address& coordinator, int index) {
    channel_ = MakeChannel(coordinator);
    stub_ = v1::WorkerService::NewStub(channel_);
    v1::RegisterRequest request;
    request.set_protocol_version(v1::PROTOCOL_VERSION_1);
    request.set_worker_id(absl::StrCat("sim-", index));
    request.set_incarnation(absl::StrCat("incarnation-", index));
    request.set_incarnation_start_millis(absl::ToUnixMillis(absl::Now()));
    request.set_device_lock_held(true);
    request.set_host("localhost");
    request.set_data_address("127.0.0.1");
    request.mutable_device()->set_kind(v1::DEVICE_CPU);
    request.mutable_device()->set_name("cpu0");
    request.mutable_device()->set_threads(1);
    request.mutable_device()->set_instruction_set("avx2");
    request.mutable_device()->set_memory_bytes(int64_t{4} << 30);
    v1::RegisterResponse response;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    const grpc::Status status = stub_->Register(&context, request, &response);
    if (!status.ok())
      return absl::UnavailableError(
          absl::StrCat("register sim-", index, ": ", status.error_message()));
    session_.AddMetadata("vitscale-credential", response.credential());
    stub_->async()->Session(&session_, this);
    alive_ = true;
    StartRead(&received_);
    StartCall();
    return absl::OkStatus();
  }

  // One heartbeat, unless the last one has not left yet.
  void Beat() {
    absl::MutexLock lock(&mutex_);
    if (writing_ || !alive_) return;
    writing_ = true;
    message_.set_term(term_);
    message_.set_message_number(++number_);
    v1::ObservedState& observed = *message_.mutable_observed();
    observed.set_stage(v1::STAGE_IDLE);
    observed.set_device_free(true);
    StartWrite(&message_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      absl::MutexLock lock(&mutex_);
      term_ = received_.term();
      acknowledged_ = received_.acknowledged_message();
    }
    StartRead(&received_);
  }
  void OnDone(const grpc::Status& status) override {
    alive_ = false;
    done_.Notify();
  }
  void Leave() {
    session_.TryCancel();
    done_.WaitForNotification();
  }

  int64_t acknowledged() const {
    absl::MutexLock lock(&mutex_);
    return acknowledged_;
  }
  bool alive() const { return alive_; }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
  grpc::ClientContext session_;
  v1::CoordinatorMessage received_;
  std::atomic<bool> alive_ = false;
  absl::Notification done_;
  mutable absl::Mutex mutex_;
  v1::AgentMessage message_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t term_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t number_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t acknowledged_ ABSL_GUARDED_BY(mutex_) = 0;
};

absl::StatusOr<std::unique_ptr<Fleet>> Fleet::Start(const Address& coordinator, int count,
                                                    absl::Duration heartbeat) {
  std::unique_ptr<Fleet> fleet(new Fleet);
  for (int i = 0; i < count; ++i) {
    auto worker = std::make_unique<SimulatedWorker>();
    VITSCALE_RETURN_IF_ERROR(worker->Join(coordinator, i));
    fleet->workers_.push_back(std::move(worker));
  }
  fleet->beater_ = std::thread(&Fleet::Beat, fleet.get(), heartbeat);
  return fleet;
}

void Fleet::Beat(absl::Duration heartbeat) {
  const absl::Duration apart = heartbeat / static_cast<double>(workers_.size());
  absl::Time next = absl::Now();
  for (size_t turn = 0; !stop_.HasBeenNotified(); turn = (turn + 1) % workers_.size()) {
    workers_[turn]->Beat();
    next += apart;
    if (next - absl::Now() > absl::Milliseconds(5))
      stop_.WaitForNotificationWithTimeout(next - absl::Now());
  }
}

Fleet::~Fleet() {
  if (beater_.joinable()) {
    stop_.Notify();
    beater_.join();
  }
  for (auto& worker : workers_) worker->Leave();
}

int64_t Fleet::beats_acknowledged() const {
  int64_t sum = 0;
  for (const auto& worker : workers_) sum += worker->acknowledged();
  return sum;
}
int Fleet::alive() const {
  int count = 0;
  for (const auto& worker : workers_) count += worker->alive();
  return count;
}

}  // namespace vitscale
