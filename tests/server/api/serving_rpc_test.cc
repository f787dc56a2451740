// The server itself: where it listens, what it counts, and a store that takes nothing.

#include <thread>

#include "tests/server/api/services_fixture_rpc.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

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
