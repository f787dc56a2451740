// Agents over gRPC: who may join, and a job that goes through a session.

#include "absl/strings/str_cat.h"
#include "tests/server/api/services_fixture_rpc.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

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

}  // namespace
}  // namespace vitscale
