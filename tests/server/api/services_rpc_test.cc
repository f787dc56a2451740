// Both services on a real server: port 0 and a Unix socket.

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "kernels/base/files.h"
#include "proto/rpc/channel_rpc.h"
#include "server/api/coordinator.h"
#include "server/api/rpc_server.h"
#include "tests/status_matchers.h"
#include "vitscale/v1/control_service.grpc.pb.h"
#include "vitscale/v1/worker_service.grpc.pb.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

v1::JobSpec Spec() {
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

std::unique_ptr<grpc::ClientContext> Context(int seconds = 20) {
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

TEST_F(ServicesTest, TheOwnerIsTheUserOfTheUnixSocketAndNobodyOnTcp) {
  const v1::Job job = Submit();
  EXPECT_EQ(job.owner().name(), absl::StrCat("uid:", getuid()));
  EXPECT_EQ(job.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(job.id().size(), 12u);
  v1::SubmitJobRequest request;
  *request.mutable_spec() = Spec();
  v1::SubmitJobResponse response;
  ASSERT_TRUE(tcp_control_->SubmitJob(Context().get(), request, &response).ok());
  EXPECT_EQ(response.job().owner().name(), "anonymous");
}

TEST_F(ServicesTest, ABadSpecIsRefusedWithEveryFaultInItsDetails) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = Spec();
  request.mutable_spec()->mutable_batch()->set_global(-1);
  request.mutable_spec()->mutable_model()->set_classes(0);
  v1::SubmitJobResponse response;
  const grpc::Status status = control_->SubmitJob(Context().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad));
  EXPECT_GE(bad.field_violations_size(), 2);
}

TEST_F(ServicesTest, ACallWithoutADeadlineIsRefused) {
  grpc::ClientContext context;
  v1::ServerInfo info;
  const grpc::Status status = control_->GetServerInfo(&context, v1::GetServerInfoRequest(), &info);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("deadline"));
}

TEST_F(ServicesTest, ARequestIdGivesTheSameAnswerEvenAfterARestart) {
  const v1::Job job = Submit("r-1");
  EXPECT_EQ(Submit("r-1").id(), job.id());
  Stop();
  Start();
  EXPECT_EQ(Submit("r-1").id(), job.id());
  v1::SubmitJobRequest other;
  other.set_request_id("r-1");
  *other.mutable_spec() = Spec();
  other.mutable_spec()->set_seed(9);
  v1::SubmitJobResponse response;
  EXPECT_EQ(control_->SubmitJob(Context().get(), other, &response).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(coordinator_->term(), 2);
}

TEST_F(ServicesTest, UnknownJobsAndWrongStatesHaveTheirCodes) {
  v1::GetJobRequest get;
  get.set_job_id("nothing");
  v1::Job job;
  EXPECT_EQ(control_->GetJob(Context().get(), get, &job).error_code(), grpc::StatusCode::NOT_FOUND);
  v1::SetIntentRequest intent;
  intent.set_job_id(Submit().id());
  intent.set_intent(v1::INTENT_DRAIN);
  EXPECT_EQ(control_->SetIntent(Context().get(), intent, &job).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  intent.set_intent(v1::INTENT_CANCEL);
  intent.set_etag("stale");
  EXPECT_EQ(control_->SetIntent(Context().get(), intent, &job).error_code(),
            grpc::StatusCode::ABORTED);
  intent.clear_etag();
  ASSERT_TRUE(control_->SetIntent(Context().get(), intent, &job).ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLED);
  intent.set_intent(v1::INTENT_RUN);
  EXPECT_EQ(control_->SetIntent(Context().get(), intent, &job).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServicesTest, AFullDiskRefusesMutationsAnswersReadsAndDoesNotHoldUpTheEnd) {
  const std::string id = Submit().id();
  disk_full_ = true;
  v1::SubmitJobRequest request;
  *request.mutable_spec() = Spec();
  grpc::Status first;
  std::thread waits([&] {  // accepted before the trouble is known: answered at the end, not before
    v1::SubmitJobResponse response;
    first = control_->SubmitJob(Context().get(), request, &response);
  });
  v1::ServerInfo info;
  do {
    ASSERT_TRUE(control_->GetServerInfo(Context().get(), v1::GetServerInfoRequest(), &info).ok());
  } while (info.writable());
  v1::SetIntentRequest intent;
  intent.set_job_id(id);
  intent.set_intent(v1::INTENT_CANCEL);
  v1::Job job;
  EXPECT_EQ(control_->SetIntent(Context().get(), intent, &job).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);
  Stop();
  waits.join();
  EXPECT_EQ(first.error_code(), grpc::StatusCode::UNAVAILABLE);
  disk_full_ = false;
  Start();
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_QUEUED);  // nothing half-done
}

TEST_F(ServicesTest, TheEventLogIsReadFromASequenceWithoutGapOrRepetition) {
  const std::string id = Submit().id();
  v1::StreamEventsRequest request;
  request.set_job_id(id);
  auto context = Context();
  auto reader = control_->StreamEvents(context.get(), request);
  v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.kind(), "submitted");
  EXPECT_EQ(event.actor().name(), absl::StrCat("uid:", getuid()));
  const int64_t first = event.sequence();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  request.set_after(first);
  request.set_follow(true);
  auto following = Context();
  auto follower = control_->StreamEvents(following.get(), request);
  v1::SetIntentRequest intent;
  intent.set_job_id(id);
  intent.set_intent(v1::INTENT_PAUSE);
  v1::Job job;
  ASSERT_TRUE(control_->SetIntent(Context().get(), intent, &job).ok());
  bool paused = false;
  int64_t last = first;
  while (!paused && follower->Read(&event)) {
    EXPECT_GT(event.sequence(), last);
    last = event.sequence();
    paused = event.kind() == "state_changed" && event.to() == v1::JOB_STATE_PAUSED;
  }
  EXPECT_TRUE(paused);
  following->TryCancel();
  EXPECT_EQ(follower->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

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

TEST_F(ServicesTest, AnAgentNeedsTheJoinSecretTheProtocolAndACredential) {
  Agent agent(*workers_, "w0");
  agent.request_.set_join_secret("guess");
  EXPECT_EQ(agent.Register().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  agent.request_.set_join_secret("open sesame");
  agent.request_.set_protocol_version(2);
  EXPECT_EQ(agent.Register().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  agent.request_.set_protocol_version(1);
  EXPECT_TRUE(agent.Register().ok());
  agent.Open("made up");
  EXPECT_EQ(agent.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(ServicesTest, AJobGoesThroughARealSessionAndItsRecordsAreKeptOnce) {
  Agent agent(*workers_, "w0");
  ASSERT_TRUE(agent.Register().ok());
  agent.Open();
  ASSERT_TRUE(agent.Report());
  const std::string id = Submit().id();

  v1::WatchJobRequest watch;
  watch.set_job_id(id);
  auto watch_context = Context();
  auto watcher = control_->WatchJob(watch_context.get(), watch);

  ASSERT_TRUE(agent.ReportUntil(v1::STAGE_PREPARE));
  EXPECT_EQ(agent.desired().spec().batch().global(), 8);
  agent.observed_.set_job_id(id);
  agent.observed_.set_attempt(1);
  agent.observed_.set_device_free(false);
  agent.observed_.set_trainer_pid(77);
  agent.observed_.set_stage(v1::STAGE_PREPARE);
  agent.observed_.set_data_address("127.0.0.1:9");
  agent.observed_.set_total_steps(2);
  ASSERT_TRUE(agent.ReportUntil(v1::STAGE_FORM));
  agent.observed_.set_stage(v1::STAGE_FORM);
  agent.observed_.set_generation(1);
  agent.observed_.set_promised_generation(1);
  ASSERT_TRUE(agent.ReportUntil(v1::STAGE_GO));
  EXPECT_TRUE(agent.desired().source().initialise());
  EXPECT_FALSE(agent.desired().rendezvous().secret().empty());
  agent.observed_.set_stage(v1::STAGE_GO);

  std::vector<v1::SpooledRecord> records;
  for (int64_t step = 1; step <= 2; ++step) {
    v1::SpooledRecord& record = records.emplace_back();
    record.set_number(step);
    record.set_job_id(id);
    record.set_attempt(1);
    record.set_generation(1);
    record.mutable_step()->set_step(step);
    record.mutable_step()->set_generation(1);
    record.mutable_step()->set_loss(1.0 / static_cast<double>(step));
  }
  v1::SpooledRecord& checkpoint = records.emplace_back();
  checkpoint.set_number(3);
  checkpoint.set_job_id(id);
  checkpoint.set_attempt(1);
  checkpoint.mutable_checkpoint()->set_id(id + "/a1.g1.step_2");
  checkpoint.mutable_checkpoint()->set_step(2);
  v1::SpooledRecord& foreign = records.emplace_back();  // about an attempt this worker is not in
  foreign.set_number(4);
  foreign.set_job_id(id);
  foreign.set_attempt(7);
  foreign.mutable_step()->set_step(99);
  ASSERT_TRUE(agent.Report(records));
  ASSERT_TRUE(agent.ReadUntilRecord(4));
  ASSERT_TRUE(agent.Report(records));  // as after a lost acknowledgement
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);

  agent.observed_.set_step(2);
  agent.observed_.set_finished(true);
  agent.observed_.set_checkpoint(id + "/a1.g1.step_2");
  ASSERT_TRUE(agent.ReportUntil(v1::STAGE_EXIT));
  agent.observed_.set_exited(true);
  agent.observed_.set_stage(v1::STAGE_EXIT);
  ASSERT_TRUE(agent.ReportUntil(v1::STAGE_IDLE));

  v1::WatchJobResponse message;
  std::vector<double> losses;
  bool done = false;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  while (watcher->Read(&message)) {
    for (const v1::StepRecord& step : message.steps()) losses.push_back(step.loss());
    if (message.has_job()) state = message.job().state();
    done = message.done();
  }
  EXPECT_TRUE(watcher->Finish().ok());
  EXPECT_TRUE(done);
  EXPECT_EQ(state, v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(losses, testing::ElementsAre(1.0, 0.5));

  v1::ListCheckpointsRequest list;
  list.set_job_id(id);
  v1::ListCheckpointsResponse checkpoints;
  ASSERT_TRUE(control_->ListCheckpoints(Context().get(), list, &checkpoints).ok());
  ASSERT_EQ(checkpoints.checkpoints_size(), 1);
  v1::PinCheckpointRequest pin;
  pin.set_checkpoint_id(checkpoints.checkpoints(0).id());
  pin.set_pinned(true);
  v1::CheckpointInfo pinned;
  ASSERT_TRUE(control_->PinCheckpoint(Context().get(), pin, &pinned).ok());
  EXPECT_TRUE(pinned.pinned());

  v1::StreamLogsRequest logs;
  logs.set_job_id(id);
  logs.set_rank(-1);
  auto log_context = Context();
  auto lines = control_->StreamLogs(log_context.get(), logs);
  v1::LogLine line;
  std::string all;
  while (lines->Read(&line)) absl::StrAppend(&all, line.text(), "\n");
  EXPECT_THAT(all, HasSubstr("RUNNING -> SUCCEEDED"));
  EXPECT_TRUE(agent.Finish().ok());
}

TEST_F(ServicesTest, ATakenPortAndAnOpenAddressAreClearErrors) {
  RpcServerOptions options;
  options.listen = server_->address();
  EXPECT_THAT(RpcServer::Start(options, *coordinator_),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(server_->address().ToString())));
  options.listen = {"0.0.0.0", 0};
  EXPECT_THAT(RpcServer::Start(options, *coordinator_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--insecure")));
  options.listen = {"127.0.0.1", 0};
  options.unix_path = directory_.path() + "/s/socket";
  EXPECT_THAT(RpcServer::Start(options, *coordinator_),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("another process serves")));
}

TEST_F(ServicesTest, MetricsCountWhatWasAnswered) {
  Submit();
  EXPECT_THAT(coordinator_->metrics().Text(), HasSubstr("SubmitJob"));
}

}  // namespace
}  // namespace vitscale
