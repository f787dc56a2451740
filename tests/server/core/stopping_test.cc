// Jobs that leave before their end: pause, cancel, kill, preemption, drain.

#include "tests/server/core/core_fixture.h"

namespace vitscale {
namespace {

TEST_F(CoreTest, PauseSavesAndLeavesAndResumeGoesOn) {
  const std::string id = Running();
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_PAUSE), IsOk());
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_STOPPING);
  EXPECT_EQ(h_.agent("w0").desired.stage(), v1::STAGE_GO);  // a vote, not an order to leave
  EXPECT_EQ(h_.agent("w0").desired.intent(), v1::INTENT_PAUSE);
  h_.Run(absl::Seconds(4));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_PAUSED);
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_RUN), IsOk());
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.job(id).attempt(), 2);
}

TEST_F(CoreTest, ResumeWhileStoppingStillEndsTheAttemptAndQueues) {
  const std::string id = Running();
  h_.agent("w0").frozen = h_.agent("w1").frozen = true;
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_PAUSE), IsOk());
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_RUN), IsOk());
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_STOPPING);
  EXPECT_EQ(h_.agent("w0").desired.intent(), v1::INTENT_PAUSE);
  h_.agent("w0").frozen = h_.agent("w1").frozen = false;
  h_.Run(absl::Seconds(8));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.job(id).attempt(), 2);
}

TEST_F(CoreTest, AJobThatDoesNotLeaveInItsGraceIsKilledAndItsDeviceQuarantined) {
  const std::string id = Running(1);
  h_.agent("w0").frozen = true;
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_CANCEL), IsOk());
  h_.Run(absl::Seconds(19));
  EXPECT_FALSE(h_.agent("w0").desired.kill());
  h_.Run(absl::Seconds(2));
  EXPECT_TRUE(h_.agent("w0").desired.kill());
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_STOPPING);
  h_.Run(absl::Seconds(60));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_QUARANTINED);
  h_.agent("w0").frozen = false;  // the trainer goes at last
  h_.Run(absl::Seconds(2));
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_QUARANTINED);  // and cools down
  h_.Run(absl::Seconds(60));
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_IDLE);
}

TEST_F(CoreTest, KillActsAtOnceAndIsIdempotent) {
  const std::string id = Running(1);
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_KILL), IsOk());
  EXPECT_TRUE(h_.agent("w0").desired.kill());
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_KILL), IsOk());
  h_.Run(absl::Seconds(2));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_CANCELLED);
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_KILL), IsOk());
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_PAUSE), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(CoreTest, CancelInEveryStageOfTheLadderEndsCancelled) {
  for (int tenths = 0; tenths < 40; ++tenths) {
    CoreHarness h;
    h.AddAgent("w0");
    h.AddAgent("w1");
    const std::string id = h.Submit(CoreHarness::Spec(2));
    h.Run(absl::Milliseconds(100 * tenths));
    EXPECT_THAT(h.SetIntent(id, v1::INTENT_CANCEL), IsOk());
    h.Run(absl::Seconds(5));
    EXPECT_EQ(h.state(id), v1::JOB_STATE_CANCELLED) << tenths;
    for (const v1::Worker& worker : h.core().Workers()) {
      EXPECT_EQ(worker.state(), v1::WORKER_STATE_IDLE) << tenths;
    }
  }
}

TEST_F(CoreTest, AHigherPriorityPreemptsALowerOneWhichComesBackByItself) {
  const std::string low = Running(2);
  const std::string high = h_.Submit(CoreHarness::Spec(2, 10));
  const std::string small =
      h_.Submit(CoreHarness::Spec(1));  // would fit into the first device that comes free
  EXPECT_EQ(h_.state(low), v1::JOB_STATE_STOPPING);
  h_.steps_total = 20;
  h_.Run(absl::Seconds(6));
  EXPECT_EQ(h_.state(high), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.state(low), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.state(small), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.job(low).preemptions(), 1);
  h_.Run(absl::Seconds(60));
  EXPECT_EQ(h_.state(high), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h_.state(low), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h_.state(small), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(CoreTest, ADrainingWorkerLetsItsJobGoAndTakesNothingNew) {
  const std::string id = Running(1);
  h_.AddAgent("w1");
  h_.agent("w0").observed.set_draining(true);
  h_.Run(absl::Seconds(8));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_THAT(h_.job(id).workers(), testing::ElementsAre("w1"));
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_DRAINING);
}

TEST_F(CoreTest, AnIntentForAJobThatHasEndedIsRefusedWithHowItEnded) {
  const std::string done = Running(1);
  h_.steps_total = 3;
  h_.Run(absl::Seconds(10));
  ASSERT_EQ(h_.state(done), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(h_.SetIntent(done, v1::INTENT_CANCEL),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("job ", done, " (job) has already SUCCEEDED")));
  const std::string gone = h_.Submit(CoreHarness::Spec(9));
  EXPECT_THAT(h_.SetIntent(gone, v1::INTENT_CANCEL), IsOk());
  EXPECT_THAT(h_.SetIntent(gone, v1::INTENT_CANCEL), IsOk()) << "so it is";
  EXPECT_THAT(h_.SetIntent(gone, v1::INTENT_RUN),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("job ", gone, " (job) has already been CANCELLED")));
}

}  // namespace
}  // namespace vitscale
