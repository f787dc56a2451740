// Jobs that fail: whose fault it is, what is tried again, and after how long.

#include "tests/server/core/core_fixture.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

TEST_F(CoreTest, AnErrorByFaultOfTheSpecOrDataIsNotRetried) {
  const std::string id = Running();
  h_.agent("w0").observed.set_collective_failed(true);
  h_.Report(h_.agent("w0"));
  h_.KillTrainer(h_.agent("w1"), 80, "data 'train.idx': truncated");
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_FAILED);
  EXPECT_EQ(h_.job(id).reason(), "data");
  EXPECT_THAT(h_.job(id).message(), HasSubstr("truncated"));
  h_.Run(absl::Seconds(3));
  for (const v1::Worker& worker : h_.core().Workers()) {
    EXPECT_EQ(worker.state(), v1::WORKER_STATE_IDLE);
  }
}

// Roots and mounts differ from worker to worker.
TEST_F(CoreTest, ACheckpointFolderThatOneWorkerCannotReachIsTriedOnAnotherBeforeTheJobFails) {
  const std::string fault = "checkpoint.dir: 'tiny' lies below none of the roots";
  h_.AddAgent("w0");
  h_.AddAgent("w1");
  const std::string id = h_.Submit(CoreHarness::Spec(1));
  h_.Run(absl::Milliseconds(1100));
  ASSERT_EQ(h_.job(id).workers(0), "w0");
  h_.KillTrainer(h_.agent("w0"), 84, fault);
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  h_.Run(absl::Milliseconds(200));
  EXPECT_EQ(h_.job(id).message(),
            absl::StrCat("waits before its next attempt: checkpoint_storage: worker w0: ", fault));
  while (h_.state(id) == v1::JOB_STATE_QUEUED) h_.Run(absl::Milliseconds(100));
  ASSERT_EQ(h_.job(id).workers(0), "w1");
  h_.Run(absl::Milliseconds(700));
  ASSERT_EQ(h_.state(id), v1::JOB_STATE_STARTING);
  h_.KillTrainer(h_.agent("w1"), 84, fault);
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_FAILED) << "there is nobody else";
  EXPECT_EQ(h_.job(id).reason(), "checkpoint_storage");
  EXPECT_EQ(h_.job(id).message(), absl::StrCat("worker w1: ", fault));
}

TEST_F(CoreTest, ADataErrorFailsTheJobAtOnceAndNamesTheWorkerWhoeverElseIsThere) {
  h_.AddAgent("w0");
  h_.AddAgent("w1");
  const std::string id = h_.Submit(CoreHarness::Spec(1));
  h_.Run(absl::Milliseconds(1100));
  h_.KillTrainer(h_.agent("w0"), 80, "data.train: 'train.idx': truncated");
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_FAILED);
  EXPECT_EQ(h_.job(id).message(), "worker w0: data.train: 'train.idx': truncated");
}

TEST_F(CoreTest, ACheckpointFolderThatCouldNeverBeWrittenFailsTheJobAtOnceALaterOneIsRetried) {
  h_.AddAgent("w0");
  const std::string first = h_.Submit(CoreHarness::Spec(1));
  h_.Run(absl::Milliseconds(1100));
  h_.KillTrainer(h_.agent("w0"), 84, "checkpoint.dir: 'a' is not a folder");
  EXPECT_EQ(h_.state(first), v1::JOB_STATE_FAILED);
  EXPECT_EQ(h_.job(first).reason(), "checkpoint_storage");
  h_.Run(absl::Seconds(2));
  const std::string second = h_.Submit(CoreHarness::Spec(1));
  h_.Run(absl::Seconds(5));
  ASSERT_EQ(h_.state(second), v1::JOB_STATE_RUNNING);
  h_.KillTrainer(h_.agent("w0"), 84, "disk is full");
  EXPECT_EQ(h_.state(second), v1::JOB_STATE_RECOVERING);
}

TEST_F(CoreTest, StepsThatCannotBeSavedAreNoProgressAndEndInABackOffThatSaysWhy) {
  const std::string id = Running(1);
  for (int generation = 0; generation < 2; ++generation) {
    h_.Run(absl::Seconds(5));  // it steps
    h_.KillTrainer(h_.agent("w0"), 84, "the checkpoint of step 1500 could not be saved: disk full");
    h_.Run(absl::Seconds(generation == 0 ? 5 : 1));
  }
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.job(id).reason(), "backing_off");
  EXPECT_THAT(h_.job(id).message(), HasSubstr("checkpoint_storage"));
  EXPECT_THAT(h_.job(id).message(), HasSubstr("disk full"));
}

TEST_F(CoreTest, ABackOffIsAsLongAsItWasMeantToBeWhateverTheWallClockDoes) {
  const std::string id = Running(1);
  for (int generation = 0; generation < 2; ++generation) {
    h_.KillTrainer(h_.agent("w0"), 84, "disk full");
    h_.Run(absl::Seconds(generation == 0 ? 5 : 1));
  }
  ASSERT_EQ(h_.job(id).reason(), "backing_off");
  h_.clock().SetWall(h_.clock().Now() - absl::Hours(1));
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);  // 10 s at first
  h_.Run(absl::Seconds(15));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
}

TEST_F(CoreTest, TrainersThatNeverStartEndInNoProgressWithGrowingPauses) {
  h_.AddAgent("w0").frozen = true;
  const std::string id = h_.Submit(CoreHarness::Spec(1));
  int attempts = 0;
  for (int i = 0; i < 40 && h_.state(id) != v1::JOB_STATE_FAILED; ++i) {
    SimulatedAgent& agent = h_.agent("w0");
    if (h_.state(id) == v1::JOB_STATE_STARTING) {
      ++attempts;
      for (int death = 0; death < 2; ++death) {  // two generations without a step end an attempt
        agent.observed.Clear();
        agent.observed.set_job_id(id);
        agent.observed.set_attempt(h_.job(id).attempt());
        agent.observed.set_stage(v1::STAGE_PREPARE);
        agent.observed.set_trainer_pid(agent.next_pid++);
        h_.Report(agent);
        h_.KillTrainer(agent, 83, "no device");
      }
    }
    h_.Run(absl::Seconds(30));
  }
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_FAILED);
  EXPECT_EQ(h_.job(id).reason(), "no_progress");
  EXPECT_EQ(attempts, 5);
}

}  // namespace
}  // namespace vitscale
