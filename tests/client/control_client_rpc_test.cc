// The real stubs against a server in this process, on a port of the kernel's choice.

#include "client/control_client_rpc.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"
#include "kernels/base/files.h"
#include "kernels/base/net.h"
#include "proto/spec/fault.h"
#include "tests/status_matchers.h"
#include "vitscale/v1/control_service.grpc.pb.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class FakeService : public v1::ControlService::Service {
 public:
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::Job* job) override {
    had_deadline = context->deadline() < std::chrono::system_clock::now() + std::chrono::hours(1);
    if (request->job_id() == "none") return {grpc::StatusCode::NOT_FOUND, "no job \"none\""};
    if (request->job_id() == "slow") {
      while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return grpc::Status::CANCELLED;
    }
    if (request->job_id() == "flaky" && ++attempts < 3)
      return {grpc::StatusCode::UNAVAILABLE, "try again"};
    if (request->job_id() == "aborted" && ++attempts > 0)
      return {grpc::StatusCode::ABORTED, "etag"};
    job->set_id(request->job_id());
    return grpc::Status::OK;
  }
  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest*,
                         v1::SubmitJobResponse*) override {
    const absl::Status faults =
        FaultsToStatus("job spec", {{"a", "was 1", "", false}, {"b", "was 2", "", false}});
    google::rpc::Status details;
    details.set_code(static_cast<int>(faults.code()));
    faults.ForEachPayload([&](absl::string_view type, const absl::Cord& value) {
      auto* any = details.add_details();
      any->set_type_url(std::string(type));
      any->set_value(std::string(value));
    });
    return {grpc::StatusCode::INVALID_ARGUMENT, std::string(faults.message()),
            details.SerializeAsString()};
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    for (int64_t step = request->after_step() + 1; step <= 100 && !context->IsCancelled(); ++step) {
      v1::WatchJobResponse message;
      message.add_steps()->set_step(step);
      message.set_done(step == 100);
      writer->Write(message);
      if (step == 50 && request->job_id() == "breaks")
        return {grpc::StatusCode::UNAVAILABLE, "restarting"};
    }
    return grpc::Status::OK;
  }
  std::atomic<int> attempts = 0;
  std::atomic<bool> had_deadline = false;
};

class RpcClientTest : public testing::Test {
 protected:
  RpcClientTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.AddListeningPort("unix:" + folder_.path() + "/s", grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~RpcClientTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::unique_ptr<ControlClient> Client(absl::Duration timeout = absl::Seconds(30)) {
    auto client = ConnectToCoordinator(address_, timeout);
    EXPECT_THAT(client, IsOk());
    return *std::move(client);
  }
  static v1::GetJobRequest Named(const std::string& name) {
    v1::GetJobRequest request;
    request.set_job_id(name);
    return request;
  }

  TemporaryDirectory folder_;
  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(RpcClientTest, CallsOverTcpAndUnixSocketsCarryADeadline) {
  EXPECT_EQ(Client()->GetJob(Named("abc"))->id(), "abc");
  EXPECT_TRUE(service_.had_deadline);
  address_ = "unix:" + folder_.path() + "/s";
  EXPECT_EQ(Client()->GetJob(Named("abc"))->id(), "abc");
}

TEST_F(RpcClientTest, StatusesKeepTheirCodeTextAndDetails) {
  EXPECT_THAT(Client()->GetJob(Named("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  const auto faults = StatusToFaults(Client()->SubmitJob({}).status());
  ASSERT_EQ(faults.size(), 2u);
  EXPECT_EQ(faults[1].field, "b");
  EXPECT_EQ(faults[1].text, "was 2");
}

TEST_F(RpcClientTest, OnlyUnavailableIsTriedAgain) {
  EXPECT_THAT(Client()->GetJob(Named("flaky")), IsOk());
  EXPECT_EQ(service_.attempts, 3);
  service_.attempts = 0;
  EXPECT_THAT(Client()->GetJob(Named("aborted")), StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(service_.attempts, 1);
}

TEST_F(RpcClientTest, ACallThatTakesTooLongNamesTheAddress) {
  EXPECT_THAT(Client(absl::Milliseconds(200))->GetJob(Named("slow")),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr(address_)));
}

TEST_F(RpcClientTest, WithoutACoordinatorTheErrorSaysWhatToDo) {
  const auto client = ConnectToCoordinator("unix:" + folder_.path() + "/nobody", absl::Seconds(5));
  EXPECT_THAT((*client)->GetJob(Named("x")),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("/nobody"), HasSubstr("vitscaled"))));
  EXPECT_THAT(ConnectToCoordinator("nonsense", absl::Seconds(5)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// What a stopped process looks like: the kernel takes the connection. gRPC gives up after 5 s.
TEST_F(RpcClientTest, ACoordinatorThatSaysNothingIsNotAnAbsentOne) {
  const std::string path = folder_.path() + "/silent";
  VITSCALE_ASSERT_OK_AND_ASSIGN(const UniqueFd listener, ListenUnix(path));
  const auto client = ConnectToCoordinator("unix:" + path, absl::Seconds(60));
  EXPECT_THAT((*client)->GetJob(Named("x")),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("the coordinator at unix:" + path + " does not answer"),
                             Not(HasSubstr("start vitscaled")))));
}

TEST_F(RpcClientTest, AStreamEndsWhenItsReaderHasEnoughOrTheServerBreaks) {
  int64_t last = 0;
  v1::WatchJobRequest request;
  const auto count_to = [&](int64_t end) {
    return [&last, end](const v1::WatchJobResponse& message) {
      last = message.steps(0).step();
      return last < end;
    };
  };
  EXPECT_THAT(Client()->WatchJob(request, absl::Seconds(30), count_to(10)), IsOk());
  EXPECT_EQ(last, 10);
  request.set_job_id("breaks");
  EXPECT_THAT(Client()->WatchJob(request, absl::Seconds(30), count_to(1000)),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(last, 50);
  request.set_after_step(last);
  request.set_job_id("whole");
  EXPECT_THAT(Client()->WatchJob(request, absl::InfiniteDuration(), count_to(1000)), IsOk());
  EXPECT_EQ(last, 100);
}

}  // namespace
}  // namespace vitscale
