// What users ask, over gRPC: owners, codes, repeated requests, the event log.

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/server/api/services_fixture_rpc.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

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

}  // namespace
}  // namespace vitscale
