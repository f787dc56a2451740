// A job from submit to its end, and a coordinator that dies or cannot write on the way.

#include "tests/server/core/core_fixture.h"

namespace vitscale {
namespace {

TEST_F(CoreTest, AJobWaitsForItsWholeGangThenClimbsTheLadderToRunning) {
  h_.AddAgent("w0");
  const std::string id = h_.Submit(CoreHarness::Spec(2));
  h_.Run(absl::Seconds(2));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.job(id).reason(), "not_enough_workers");
  h_.AddAgent("w1");
  h_.Run(absl::Seconds(4));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.agent("w0").desired.members_size(), 2);
  EXPECT_TRUE(h_.agent("w0").desired.source().initialise());
  EXPECT_EQ(h_.agent("w0").desired.precision(), v1::PRECISION_BF16);
  EXPECT_EQ(h_.agent("w0").desired.instruction_set(), "avx512_bf16");
  EXPECT_THAT(h_.job(id).workers(), testing::ElementsAre("w0", "w1"));
}

TEST_F(CoreTest, NothingIsSentOrAnsweredBeforeItsCommit) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  h_.SetAutoCommit(false);
  const Token token = h_.NextToken();
  h_.Handle(SubmitEvent{{token, "", 0, "uid:1"}, CoreHarness::Spec(1)});
  EXPECT_FALSE(h_.TakeAnswer(token).has_value());
  h_.Report(agent);  // a heartbeat is acknowledged all the same, with the committed state
  EXPECT_EQ(agent.desired.job_id(), "");
  ASSERT_EQ(h_.uncommitted().size(), 1u);
  h_.Commit();
  EXPECT_TRUE(h_.TakeAnswer(token).has_value());
  EXPECT_NE(agent.desired.job_id(), "");
}

TEST_F(CoreTest, TheSameRequestIdGivesTheSameAnswerAndAnotherRequestIsRefused) {
  const std::string id = h_.Submit(CoreHarness::Spec(1), "request", 7);
  EXPECT_EQ(h_.Submit(CoreHarness::Spec(1), "request", 7), id);
  const Token token = h_.NextToken();
  h_.Handle(SubmitEvent{{token, "request", 8, "uid:1"}, CoreHarness::Spec(1)});
  EXPECT_THAT(h_.TakeAnswer(token)->status, StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(CoreTest, AFinishedRunSucceedsAndFreesItsWorkersOnlyWhenTheTrainersAreGone) {
  h_.steps_total = 5;
  h_.AddAgent("w0");
  const std::string id = h_.Submit(CoreHarness::Spec(1));
  h_.Run(absl::Seconds(8));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h_.job(id).step(), 5);
  EXPECT_EQ(h_.agent("w0").desired.job_id(), "");
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_IDLE);
}

TEST_F(CoreTest, AStoreThatTakesNothingRefusesMutationsAndKeepsGangs) {
  const std::string id = Running();
  h_.Handle(StoreStateEvent{false});
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_PAUSE), StatusIs(absl::StatusCode::kUnavailable));
  h_.KillTrainer(h_.agent("w1"));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);  // nothing is decided that cannot be written down
  h_.Handle(StoreStateEvent{true});
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RECOVERING);
}

TEST_F(CoreTest, ARestartedCoordinatorAdoptsWhatTrainsWithoutDisturbingIt) {
  const std::string id = Running();
  const int64_t pid = h_.agent("w0").observed.trainer_pid();
  h_.Restart();
  EXPECT_EQ(h_.core().term(), 2);
  h_.Run(absl::Seconds(5));
  h_.Connect(h_.agent("w0"));
  h_.Run(absl::Seconds(3));
  h_.Connect(h_.agent("w1"));
  h_.Run(absl::Seconds(60));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.job(id).generation(), 1);
  EXPECT_EQ(h_.agent("w0").observed.trainer_pid(), pid);
  EXPECT_EQ(h_.CountEvents("generation_broken"), 0);
}

TEST_F(CoreTest, ACrashOfTheCoordinatorInEveryMomentLosesNoJob) {
  for (int tenths = 1; tenths < 60; ++tenths) {
    CoreHarness h;
    h.steps_total = 4;
    h.AddAgent("w0");
    h.AddAgent("w1");
    const std::string id = h.Submit(CoreHarness::Spec(2));
    h.Run(absl::Milliseconds(100 * tenths));
    h.SetAutoCommit(false);  // what is decided now never becomes durable
    h.Run(absl::Milliseconds(300));
    h.Restart();
    h.SetAutoCommit(true);
    h.Run(absl::Seconds(2));
    h.Connect(h.agent("w0"));
    h.Connect(h.agent("w1"));
    h.Run(absl::Seconds(60));
    EXPECT_EQ(h.state(id), v1::JOB_STATE_SUCCEEDED) << tenths;
    EXPECT_EQ(h.CountEvents("internal_error"), 0) << tenths;
  }
}

TEST_F(CoreTest, KillsOfAnyVictimInAnyMomentEndInSuccess) {
  for (int round = 0; round < 120; ++round) {
    CoreHarness h;
    h.steps_total = 12;
    h.AddAgent("w0");
    h.AddAgent("w1");
    const std::string id = h.Submit(CoreHarness::Spec(2));
    h.Run(absl::Milliseconds(70 * round));
    if (round % 3 == 0) {
      h.KillTrainer(h.agent("w1"));
    } else if (round % 3 == 1) {
      h.Crash(h.agent("w1"));
      h.agent("w0").observed.set_collective_failed(h.agent("w0").observed.stage() == v1::STAGE_GO);
      h.Run(absl::Milliseconds(20 * round));
      h.Connect(h.agent("w1"));
    } else {
      h.Restart();
      h.Run(absl::Seconds(1));
      h.Connect(h.agent("w1"));
      h.Connect(h.agent("w0"));
    }
    h.Run(absl::Seconds(60));
    EXPECT_EQ(h.state(id), v1::JOB_STATE_SUCCEEDED) << round;
    EXPECT_EQ(h.CountEvents("internal_error"), 0) << round;
  }
}

}  // namespace
}  // namespace vitscale
