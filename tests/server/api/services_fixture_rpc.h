// Both services on a real server: port 0 and a Unix socket. And an agent in the test's own hands.

#ifndef TESTS_SERVER_API_SERVICES_FIXTURE_RPC_H_
#define TESTS_SERVER_API_SERVICES_FIXTURE_RPC_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "proto/rpc/channel_rpc.h"
#include "server/api/coordinator.h"
#include "server/api/rpc_server.h"
#include "tests/status_matchers.h"
#include "vitscale/v1/control_service.grpc.pb.h"
#include "vitscale/v1/worker_service.grpc.pb.h"

namespace vitscale {

// A small job.
inline v1::JobSpec Spec() {
  v1::JobSpec spec;
  spec.set_name("test");
  spec.mutable_model()->mutable_custom()->set_patch(4);
  spec.mutable_model()->mutable_custom()->set_width(16);
  spec.mutable_model()->mutable_custom()->set_depth(1);
  spec.mutable_model()->mutable_custom()->set_heads(2);
  spec.mutable_model()->mutable_custom()->set_mlp_width(32);
  spec.mutable_model()->set_image_size(28);
  spec.mutable_model()->set_channels(1);
  spec.mutable_model()->set_classes(10);
  spec.mutable_data()->mutable_train()->set_format(v1::DATA_FORMAT_SYNTHETIC);
  spec.mutable_data()->mutable_train()->set_synthetic_images(1024);
  spec.mutable_optimizer()->set_lr(0.001);
  spec.mutable_schedule()->set_total("10 steps");
  spec.mutable_batch()->set_global(8);
  spec.mutable_batch()->set_micro(8);
  return spec;
}

inline std::unique_ptr<grpc::ClientContext> Context(int seconds = 20) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  context->set_wait_for_ready(true);  // a busy machine may be slow to accept
  return context;
}

class ServicesTest : public testing::Test {
 protected:
  ServicesTest() { Start(); }
  ~ServicesTest() override { Stop(); }

  void Start() {
    StepStoreOptions steps;
    steps.batch = absl::Milliseconds(1);
    ControlStoreOptions store;
    store.retry_max = absl::Milliseconds(20);
    store.fault = [this](const char* point) {
      return disk_full_ && point == std::string("commit")
                 ? absl::ResourceExhaustedError("disk is full")
                 : absl::OkStatus();
    };
    auto control = ControlStore::Open(directory_.path() + "/control.db", store);
    auto step_store = StepStore::Open(directory_.path() + "/steps.db", steps);
    EXPECT_THAT(control, IsOk());
    EXPECT_THAT(step_store, IsOk());
    Coordinator::Options options;
    options.join_secret = "open sesame";
    options.core.heartbeat = absl::Milliseconds(100);
    options.core.lease = absl::Seconds(10);
    coordinator_ = std::make_unique<Coordinator>(
        options, *std::move(control), *std::move(step_store), SystemRandom(), RealClock());
    EXPECT_THAT(coordinator_->Start(), IsOk());
    RpcServerOptions server;
    server.unix_path = directory_.path() + "/s/socket";
    server.listen = {"127.0.0.1", 0};
    auto started = RpcServer::Start(server, *coordinator_);
    ASSERT_THAT(started, IsOk());
    server_ = *std::move(started);
    Address unix_address;
    unix_address.unix_path = server.unix_path;
    control_ = v1::ControlService::NewStub(MakeChannel(unix_address));
    Address tcp;
    tcp.tcp = server_->address();
    tcp_control_ = v1::ControlService::NewStub(MakeChannel(tcp));
    workers_ = v1::WorkerService::NewStub(MakeChannel(unix_address));
  }
  void Stop() {
    coordinator_->RefuseAfter(absl::ZeroDuration());
    server_->Shutdown(absl::ZeroDuration());
    coordinator_->Stop();
  }

  v1::Job Submit(const std::string& request_id = "") {
    v1::SubmitJobRequest request;
    request.set_request_id(request_id);
    *request.mutable_spec() = Spec();
    v1::SubmitJobResponse response;
    const grpc::Status status = control_->SubmitJob(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job();
  }
  v1::Job Get(const std::string& id) {
    v1::GetJobRequest request;
    request.set_job_id(id);
    v1::Job job;
    EXPECT_TRUE(control_->GetJob(Context().get(), request, &job).ok());
    return job;
  }

  std::atomic<bool> disk_full_ = false;
  TemporaryDirectory directory_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::ControlService::Stub> control_, tcp_control_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
};

// An agent in the test's own hands.
class Agent {
 public:
  Agent(v1::WorkerService::Stub& stub, const std::string& id) : stub_(stub) {
    request_.set_protocol_version(1);
    request_.set_worker_id(id);
    request_.set_incarnation(id + "-1");
    request_.set_incarnation_start_millis(1);
    request_.set_join_secret("open sesame");
    request_.mutable_device()->set_kind(v1::DEVICE_CPU);
    request_.mutable_device()->set_memory_bytes(1 << 30);
    request_.set_device_lock_held(true);
    observed_.set_stage(v1::STAGE_IDLE);
    observed_.set_device_free(true);
  }
  grpc::Status Register() { return stub_.Register(Context().get(), request_, &registered_); }
  void Open(const std::string& credential = "") {
    context_.AddMetadata("vitscale-credential",
                         credential.empty() ? registered_.credential() : credential);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    stream_ = stub_.Session(&context_);
  }
  // Sends the observed state and waits until the coordinator has acknowledged it.
  bool Report(std::vector<v1::SpooledRecord> records = {}) {
    v1::AgentMessage message;
    message.set_message_number(++number_);
    *message.mutable_observed() = observed_;
    for (v1::SpooledRecord& record : records) *message.add_records() = std::move(record);
    if (!stream_->Write(message)) return false;
    while (stream_->Read(&last_)) {
      if (last_.acknowledged_message() >= number_) return true;
    }
    return false;
  }
  bool ReadUntilRecord(int64_t number) {
    while (last_.acknowledged_record() < number) {
      if (!stream_->Read(&last_)) return false;
    }
    return true;
  }
  // Reports once, and waits until the coordinator wants `stage`.
  bool ReportUntil(v1::Stage stage) {
    if (!Report()) return false;
    while (last_.desired().stage() != stage) {
      if (!stream_->Read(&last_)) return false;
    }
    return true;
  }
  grpc::Status Finish() {
    stream_->WritesDone();
    while (stream_->Read(&last_)) {
    }
    return stream_->Finish();
  }
  const v1::DesiredState& desired() const { return last_.desired(); }
  v1::RegisterRequest request_;
  v1::ObservedState observed_;

 private:
  v1::WorkerService::Stub& stub_;
  v1::RegisterResponse registered_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AgentMessage, v1::CoordinatorMessage>> stream_;
  v1::CoordinatorMessage last_;
  int64_t number_ = 0;
};

}  // namespace vitscale

#endif  // TESTS_SERVER_API_SERVICES_FIXTURE_RPC_H_
