// What breaks a generation, and when the next one may begin.

#include "tests/server/core/core_fixture.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

TEST_F(CoreTest, ATrainerThatDiesIsReplacedAndAllGoOnFromTheNewestCommonCheckpoint) {
  const std::string id = Running();
  for (const char* w : {"w0", "w1"}) {
    *h_.agent(w).observed.add_checkpoints() = Checkpoint(id, 4);
    *h_.agent(w).observed.add_checkpoints() = Checkpoint(id, 2);
  }
  h_.agent("w1").frozen = true;
  h_.KillTrainer(h_.agent("w1"));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(h_.job(id).generation(), 2);
  EXPECT_EQ(h_.CountEvents("generation_broken", "killed_by_signal_9"), 1);
  h_.agent("w1").frozen = false;
  h_.Run(absl::Seconds(1));
  *h_.agent("w1").observed.add_checkpoints() = Checkpoint(id, 2);  // has not seen the newer one
  h_.Run(absl::Seconds(4));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.agent("w0").desired.source().checkpoint(), Checkpoint(id, 2).id());
  EXPECT_EQ(h_.job(id).recoveries(), 1);
  EXPECT_EQ(h_.job(id).attempt(), 1);
}

TEST_F(CoreTest, AFailedCollectiveWaitsForTheCauseAndNamesIt) {
  const std::string id = Running();
  h_.agent("w0").observed.set_collective_failed(true);
  h_.agent("w0").observed.add_suspects(1);
  h_.Report(h_.agent("w0"));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  h_.clock().Advance(absl::Milliseconds(100));
  h_.KillTrainer(h_.agent("w1"), 83, "device lost");
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(h_.CountEvents("generation_broken", "device"), 1);
}

TEST_F(CoreTest, AFailedCollectiveWithoutACauseBreaksTheGenerationAfterTheWait) {
  const std::string id = Running();
  h_.agent("w0").observed.set_collective_failed(true);
  h_.Report(h_.agent("w0"));
  h_.clock().Advance(absl::Milliseconds(299));
  h_.Handle(TickEvent{});
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  h_.clock().Advance(absl::Milliseconds(1));
  h_.Handle(TickEvent{});
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RECOVERING);
}

TEST_F(CoreTest, AnAgentThatComesBackWithinTheReadyDeadlineKeepsTheAttempt) {
  const std::string id = Running();
  h_.Crash(h_.agent("w1"));
  h_.Run(absl::Seconds(1));
  h_.Connect(h_.agent("w1"));
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.job(id).attempt(), 1);
  EXPECT_GE(h_.job(id).generation(), 2);
  EXPECT_EQ(h_.agent("w0").desired.members(1).incarnation(), h_.agent("w1").incarnation());
}

TEST_F(CoreTest, AnAgentThatStaysAwaySendsTheJobBackToTheQueueWithoutBackOff) {
  const std::string id = Running();
  h_.Crash(h_.agent("w1"));
  h_.agent("w0").observed.set_collective_failed(true);
  h_.Run(absl::Seconds(12));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.CountEvents("state_changed", "lost_worker"), 1);
  EXPECT_TRUE(h_.core().FindJob(id)->failures().empty());
  h_.AddAgent("w2");
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.job(id).attempt(), 2);
}

TEST_F(CoreTest, ALostConnectionBreaksNothingWhileTheOthersAdvance) {
  const std::string id = Running();
  h_.Disconnect(h_.agent("w1"));
  h_.Run(absl::Seconds(60));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.job(id).generation(), 1);
  EXPECT_EQ(h_.CountEvents("worker_unreachable"), 1);
}

TEST_F(CoreTest, AnUnreachableMemberBreaksAGenerationThatStandsStill) {
  const std::string id = Running();
  h_.Disconnect(h_.agent("w1"));
  h_.agent("w0").frozen = true;
  h_.Run(absl::Seconds(14));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  h_.Run(absl::Seconds(3));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RECOVERING);
}

TEST_F(CoreTest, ACoordinatorThatHearsOfNobodyBreaksNothingUntilOwnershipHasExpired) {
  const std::string id = Running(1);
  h_.Disconnect(h_.agent("w0"));
  h_.Run(absl::Minutes(10));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  h_.Run(absl::Seconds(30));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_LOST);
}

// The partitioned pair may still be training: nobody else may go before their ownership has run
// out.
TEST_F(CoreTest, AFencedGenerationHoldsTheNextOneUntilOneMemberGivesUpOrOwnershipExpires) {
  const std::string id = Running();
  h_.agent("w0").frozen = true;  // stands still, still connected, and does not promise
  h_.Disconnect(h_.agent("w1"));
  h_.Run(absl::Seconds(40));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);  // lost_worker
  h_.Disconnect(h_.agent("w0"));
  h_.AddAgent("x0");
  h_.AddAgent("x1");
  h_.Run(absl::Seconds(20));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_STARTING);
  EXPECT_EQ(h_.agent("x0").desired.stage(), v1::STAGE_FORM);
  // w1 comes back with a new life that holds the device lock: its trainer is gone, so the old
  // generation is.
  ++h_.agent("w1").life;
  h_.agent("w1").observed.Clear();
  h_.Connect(h_.agent("w1"));
  h_.Run(absl::Seconds(3));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
}

TEST_F(CoreTest, OwnershipThatExpiresOpensTheFence) {
  const std::string id = Running();
  h_.agent("w0").frozen = true;
  h_.Disconnect(h_.agent("w1"));
  h_.Run(absl::Seconds(40));
  h_.Disconnect(h_.agent("w0"));
  h_.AddAgent("x0");
  h_.AddAgent("x1");
  h_.Run(absl::Minutes(10));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_STARTING);
  h_.Run(absl::Seconds(40));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
}

TEST_F(CoreTest, AJumpOfTheWallClockDeclaresNobodyDead) {
  const std::string id = Running();
  h_.clock().SetWall(h_.clock().Now() + absl::Hours(1));
  h_.Run(absl::Seconds(5));
  h_.clock().SetWall(h_.clock().Now() - absl::Hours(2));
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.CountEvents("worker_unreachable"), 0);
}

}  // namespace
}  // namespace vitscale
