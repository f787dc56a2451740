// When the agent starts, directs, kills and replaces its trainer, and what it says about it.

#include "gmock/gmock.h"
#include "tests/worker/agent/core/agent_harness.h"

namespace vitscale::agent {
namespace {

using link::Stage;
using testing::HasSubstr;
using testing::IsEmpty;

// Desired stage without a trainer -> is one started?
TEST(TrainerTest, StartsExactlyForTheStagesThatNeedATrainer) {
  for (auto [stage, starts] : {std::pair{Stage::kIdle, false},
                               {Stage::kPrepare, true},
                               {Stage::kForm, true},
                               {Stage::kGo, true},
                               {Stage::kExit, false},
                               {Stage::kUnspecified, false}}) {
    AgentHarness agent;
    agent.Connect();
    agent.Say(Want(stage, 1));
    EXPECT_EQ(agent.Last<StartTrainer>().has_value(), starts) << link::StageName(stage);
  }
}

TEST(TrainerTest, SendsTheSetupOnceAndFirstTogetherWithTheDesiredState) {
  AgentHarness agent;
  agent.Connect();
  agent.Say(Want(Stage::kPrepare, 1));
  ASSERT_EQ(agent.All<SendOrder>().size(), 1u);
  EXPECT_EQ(agent.Last<SendOrder>()->order.setup->worker_id, "w0");
  EXPECT_EQ(agent.Last<SendOrder>()->order.desired, Want(Stage::kPrepare, 1));
  agent.Say(Want(Stage::kForm, 1));
  ASSERT_EQ(agent.All<SendOrder>().size(), 1u);
  EXPECT_FALSE(agent.Last<SendOrder>()->order.setup);
}

TEST(TrainerTest, RepeatsTheOrderWithEachHeartbeatAndSendsAChangeAtOnce) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.PassConnected(absl::Seconds(10));
  EXPECT_EQ(agent.All<SendOrder>().size(), 5u);
  link::DesiredState drain = Want(Stage::kPrepare, 1);
  drain.intent = link::Intent::kDrain;
  agent.Say(drain);
  ASSERT_EQ(agent.All<SendOrder>().size(), 1u);
  EXPECT_EQ(agent.Last<SendOrder>()->order.desired->intent, link::Intent::kDrain);
}

TEST(TrainerTest, GoReachesATrainerOnlyIfItWasToldToFormThatGeneration) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 7));
  agent.Say(Want(Stage::kForm, 7));
  agent.Say(Want(Stage::kGo, 7));
  EXPECT_EQ(agent.Last<SendOrder>()->order.desired->stage, Stage::kGo);
  // Killed in generation 7; its successor has missed that one.
  agent.Die(137);
  agent.Say(std::nullopt);
  ASSERT_TRUE(agent.Last<StartTrainer>());
  EXPECT_EQ(agent.Last<SendOrder>()->order.desired->stage, Stage::kPrepare);
  agent.Say(Want(Stage::kForm, 8));
  agent.Say(Want(Stage::kGo, 8));
  EXPECT_EQ(agent.Last<SendOrder>()->order.desired->stage, Stage::kGo);
}

TEST(TrainerTest, ReportsWhatTheTrainerReportsUnderTheNameThatTheAgentKnows) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 3, 2));
  agent.Report({.job_id = "liar",
                .attempt = 9,
                .generation = 3,
                .stage = Stage::kPrepare,
                .exited = true,
                .exit_code = 5,
                .data_address = "127.0.0.1:4",
                .device_free = true});
  const link::ObservedState observed = agent.Last<SendMessage>()->observed;
  EXPECT_EQ(observed.job_id, "job");
  EXPECT_EQ(observed.attempt, 2);
  EXPECT_EQ(observed.generation, 3);
  EXPECT_EQ(observed.data_address, "127.0.0.1:4");
  EXPECT_EQ(observed.trainer_pid, 1001);
  EXPECT_FALSE(observed.exited);
  EXPECT_EQ(observed.exit_code, 0);
  EXPECT_FALSE(observed.device_free);
}

TEST(TrainerTest, ATrainerThatHasNotReportedYetIsIdleWithAProcessId) {
  AgentHarness agent;
  agent.Connect();
  agent.Say(Want(Stage::kPrepare, 1));
  EXPECT_EQ(agent.core().Observed().stage, Stage::kIdle);
  EXPECT_EQ(agent.core().Observed().trainer_pid, 1001);
  EXPECT_EQ(agent.core().Observed().job_id, "job");
}

TEST(TrainerTest, ReportsTheDeathOnlyWhenTheWholeGroupIsGone) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(TrainerReaped{agent.trainer(), 139});
  EXPECT_FALSE(agent.core().Observed().exited);
  EXPECT_FALSE(agent.core().Observed().device_free);
  EXPECT_EQ(agent.core().Observed().trainer_pid, 0);
  agent.PassConnected(absl::Seconds(10));
  EXPECT_EQ(agent.All<KillTrainer>().size(), 1u) << "what it started must not hold the device";
  EXPECT_FALSE(agent.Last<StartTrainer>());
  agent.Do(TrainerGroupEmpty{agent.trainer()});
  const link::ObservedState observed = agent.Last<SendMessage>()->observed;
  EXPECT_TRUE(observed.exited);
  EXPECT_TRUE(observed.device_free);
  EXPECT_EQ(observed.exit_code, 139);
  EXPECT_EQ(observed.stage, Stage::kExit);
  EXPECT_EQ(observed.error, "killed by SIGSEGV (139)");
}

TEST(TrainerTest, ACardThatSomebodyElseUsesIsToldButNotWhileTheOwnTrainerRunsThere) {
  AgentHarness agent;
  agent.Connect();
  EXPECT_FALSE(agent.core().Observed().device_use);
  const link::DeviceUse dirty{.used_bytes = 7, .dirty = "process 4711 holds it"};
  agent.Do(DeviceSeen{dirty});
  EXPECT_EQ(agent.Last<SendMessage>()->observed.device_use, dirty) << "at once";
  EXPECT_THAT(agent.Logged(), HasSubstr("the card is dirty"));
  agent.Do(DeviceSeen{{.used_bytes = 5}});
  EXPECT_EQ(agent.Last<SendMessage>()->observed.device_use->dirty, "");
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(DeviceSeen{dirty});
  EXPECT_EQ(agent.core().Observed().device_use->dirty, "");
  EXPECT_EQ(agent.core().Observed().device_use->used_bytes, 7);
  agent.Die(137);
  agent.Do(DeviceSeen{dirty});
  EXPECT_EQ(agent.core().Observed().device_use->dirty, "") << "the driver may still list it";
  agent.Pass(absl::Seconds(6));
  agent.Do(DeviceSeen{dirty});
  EXPECT_EQ(agent.core().Observed().device_use->dirty, dirty.dirty);
}

TEST(TrainerTest, AKilledTrainerStartsAgainAsSoonAsItsDeathIsAcknowledged) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Die(137);
  EXPECT_TRUE(agent.Last<SendMessage>()->observed.exited);
  EXPECT_FALSE(agent.Last<StartTrainer>()) << "the coordinator may not have heard of it yet";
  agent.Say(std::nullopt);
  EXPECT_TRUE(agent.Last<StartTrainer>());
  EXPECT_FALSE(agent.core().Observed().exited);
}

TEST(TrainerTest, ADeathIsToldAgainInANewSessionBeforeTheNextTrainerStarts) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Die(137);
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kUnavailable, "reset"});
  agent.Pass(absl::Seconds(5));
  ASSERT_TRUE(agent.Last<SendMessage>());
  EXPECT_TRUE(agent.Last<SendMessage>()->observed.exited);
  EXPECT_FALSE(agent.Last<StartTrainer>());
  agent.Say(std::nullopt);
  EXPECT_TRUE(agent.Last<StartTrainer>());
}

// Exit code -> does the next trainer of the attempt start in the same generation?
TEST(TrainerTest, WhoLeftByItsOwnDecisionStartsAgainOnlyInAHigherGeneration) {
  for (auto [code, restarts] : {std::pair{0, false},
                                {75, false},
                                {76, false},
                                {78, false},
                                {80, false},
                                {81, false},
                                {82, true},
                                {83, true},
                                {84, false},
                                {85, false},
                                {93, false},
                                {137, true},
                                {134, true},
                                {1, true},
                                {127, true}}) {
    AgentHarness agent;
    agent.Connect();
    agent.RunTrainer(Want(Stage::kPrepare, 4));
    agent.PassConnected(absl::Minutes(1));
    agent.Die(code);
    agent.Say(std::nullopt);
    agent.PassConnected(absl::Seconds(3));
    EXPECT_EQ(agent.core().Observed().trainer_pid != 0, restarts) << code;
    agent.Say(Want(Stage::kForm, 5));
    EXPECT_NE(agent.core().Observed().trainer_pid, 0) << code;
  }
}

TEST(TrainerTest, TrainersThatDieYoungStartAgainMoreAndMoreSlowly) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  std::vector<int64_t> seconds;
  for (int i = 0; i < 8; ++i) {
    const int64_t dead = agent.trainer();
    agent.Die(1);
    const absl::Time death = agent.now();
    agent.Say(std::nullopt);
    while (agent.trainer() == dead) agent.PassConnected(absl::Seconds(1));
    seconds.push_back(absl::ToInt64Seconds(agent.now() - death));
  }
  EXPECT_THAT(seconds, testing::ElementsAre(0, 1, 2, 4, 8, 16, 30, 30));
}

TEST(TrainerTest, TrainersThatTrainedStartAgainAtOnceHoweverOftenTheyAreKilled) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  for (int i = 0; i < 20; ++i) {
    const int64_t dead = agent.trainer();
    agent.Report({.stage = Stage::kGo, .step = i});
    agent.Die(137);
    agent.Say(std::nullopt);
    EXPECT_NE(agent.trainer(), dead);
  }
}

TEST(TrainerTest, AFailedStartIsADeathWithItsReason) {
  AgentHarness agent;
  agent.set_starts(false);
  agent.Connect();
  agent.Say(Want(Stage::kPrepare, 1));
  agent.Do(TrainerStartFailed{agent.Last<StartTrainer>()->trainer, "no memory"});
  EXPECT_TRUE(agent.core().Observed().exited);
  EXPECT_THAT(agent.core().Observed().error, HasSubstr("no memory"));
  EXPECT_EQ(agent.core().Observed().exit_code, 83);
}

// ---- the stop ladder ---------------------------------------------------------

TEST(TrainerTest, ExitIsOrderedThenKilledAfterItsGraceAndAgainEvery10Seconds) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Say(Want(Stage::kExit, 1));
  EXPECT_EQ(agent.Last<SendOrder>()->order.desired->stage, Stage::kExit);
  EXPECT_FALSE(agent.Last<KillTrainer>());
  agent.PassConnected(absl::Seconds(19));
  EXPECT_FALSE(agent.Last<KillTrainer>());
  agent.PassConnected(absl::Seconds(1));
  EXPECT_EQ(agent.All<KillTrainer>().size(), 1u);
  agent.PassConnected(absl::Seconds(30));
  EXPECT_EQ(agent.All<KillTrainer>().size(), 3u);
  agent.Die(137);
  EXPECT_THAT(agent.Spooled<link::LogLine>().back().text,
              HasSubstr("killed by SIGKILL (137); the agent killed it: its grace has passed"));
  agent.PassConnected(absl::Seconds(60));
  EXPECT_FALSE(agent.Last<KillTrainer>());
  EXPECT_TRUE(agent.core().Observed().exited);
}

TEST(TrainerTest, KillDoesNotWaitForTheGrace) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  link::DesiredState kill = Want(Stage::kExit, 1);
  kill.kill = true;
  agent.Say(kill);
  EXPECT_TRUE(agent.Last<KillTrainer>());
}

TEST(TrainerTest, RepeatedExitOrdersDoNotExtendTheGrace) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  std::vector<KillTrainer> kills;
  for (int i = 0; i < 25; ++i) {
    agent.Say(Want(Stage::kExit, 1));
    agent.PassConnected(absl::Seconds(1));
    for (const KillTrainer& kill : agent.All<KillTrainer>()) kills.push_back(kill);
  }
  EXPECT_EQ(kills.size(), 1u);
}

TEST(TrainerTest, AnObedientTrainerExitsAndNothingIsKilled) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Say(Want(Stage::kExit, 1));
  agent.Die(0);
  EXPECT_TRUE(agent.Last<SendMessage>()->observed.exited);
  agent.Say(Idle());
  EXPECT_EQ(agent.core().Observed().stage, Stage::kIdle);
  EXPECT_EQ(agent.core().Observed().job_id, "");
  EXPECT_TRUE(agent.core().Observed().device_free);
  EXPECT_FALSE(agent.Last<KillTrainer>());
}

TEST(TrainerTest, AnOlderAttemptIsKilledAndGoneBeforeTheNewOneStarts) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1, 1));
  agent.Say(Want(Stage::kPrepare, 2, 2));
  EXPECT_TRUE(agent.Last<KillTrainer>());
  EXPECT_FALSE(agent.Last<StartTrainer>());
  EXPECT_EQ(agent.core().Observed().attempt, 1);
  agent.Do(TrainerReaped{agent.trainer(), 137});
  EXPECT_FALSE(agent.Last<StartTrainer>());
  agent.Do(TrainerGroupEmpty{agent.trainer()});
  ASSERT_TRUE(agent.Last<StartTrainer>());
  EXPECT_EQ(agent.Last<StartTrainer>()->attempt, 2);
  EXPECT_EQ(agent.Last<SendOrder>()->order.setup->worker_id, "w0");
}

TEST(TrainerTest, ATrainerOfAnotherJobOrOfNoneIsKilled) {
  for (const link::DesiredState& next : {Idle(), Want(Stage::kPrepare, 1, 1, "other")}) {
    AgentHarness agent;
    agent.Connect();
    agent.RunTrainer(Want(Stage::kPrepare, 1));
    agent.Say(next);
    EXPECT_TRUE(agent.Last<KillTrainer>());
  }
}

TEST(TrainerTest, AnExitOrderForATrainerOfAFormerLifeIsAnsweredAtOnce) {
  AgentHarness agent;
  agent.Connect();
  agent.Say(Want(Stage::kExit, 4, 2));
  const link::ObservedState observed = agent.Last<SendMessage>()->observed;
  EXPECT_EQ(observed.job_id, "job");
  EXPECT_EQ(observed.attempt, 2);
  EXPECT_TRUE(observed.exited);
  EXPECT_TRUE(observed.device_free);
}

// ---- trainers that misbehave -------------------------------------------------

TEST(TrainerTest, GarbageOnTheLinkKillsAtOnce) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(TrainerLinkEnded{agent.trainer(), true, "frame of 4294967295 bytes"});
  EXPECT_TRUE(agent.Last<KillTrainer>());
}

TEST(TrainerTest, AClosedLinkLeavesFiveSecondsToExit) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(TrainerLinkEnded{agent.trainer(), false, "end of stream"});
  agent.PassConnected(absl::Seconds(4));
  EXPECT_FALSE(agent.Last<KillTrainer>());
  agent.PassConnected(absl::Seconds(1));
  EXPECT_TRUE(agent.Last<KillTrainer>());
}

TEST(TrainerTest, ATrainerThatReportsNothingForAMinuteIsKilled) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.set_reports(false);
  agent.PassConnected(absl::Seconds(59));
  EXPECT_FALSE(agent.Last<KillTrainer>());
  agent.PassConnected(absl::Seconds(2));
  EXPECT_TRUE(agent.Last<KillTrainer>());
}

TEST(TrainerTest, AMachineThatSleptDoesNotCountAsSilenceOfTheTrainer) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Sleep(absl::Minutes(3));
  agent.Do(Tick{});
  EXPECT_FALSE(agent.Last<KillTrainer>());
}

TEST(TrainerTest, EventsOfAFormerTrainerAreIgnored) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  const int64_t old = agent.trainer();
  agent.Die(137);
  agent.Say(std::nullopt);
  ASSERT_NE(agent.trainer(), old);
  agent.Do(TrainerReaped{old, 1});
  agent.Do(TrainerLinkEnded{old, true, "late"});
  agent.Do(TrainerReported{old, {.observed = link::ObservedState{.step = 99}}});
  EXPECT_NE(agent.core().Observed().trainer_pid, 0);
  EXPECT_NE(agent.core().Observed().step, 99);
  EXPECT_FALSE(agent.Last<KillTrainer>());
}

// ---- records -----------------------------------------------------------------

TEST(TrainerTest, RecordsGoToTheSpoolUnderTheJobAndTheTrainerHearsThatTheyAreOnDisk) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 3, 2));
  link::TrainerReport report;
  report.records.resize(2);
  report.records[0].record = link::StepRecord{.step = 1};
  report.records[1].record = link::EvalRecord{.name = "val"};
  agent.Do(TrainerReported{agent.trainer(), report});
  const auto spooled = agent.Last<SpoolRecords>()->records;
  ASSERT_EQ(spooled.size(), 2u);
  EXPECT_EQ(spooled[0].job_id, "job");
  EXPECT_EQ(spooled[0].attempt, 2);
  EXPECT_EQ(spooled[0].generation, 3);
  agent.Do(SpoolChanged{2, true, /*on_disk=*/false});
  agent.PassConnected(absl::Seconds(2));
  EXPECT_EQ(agent.Last<SendOrder>()->order.spooled, 0);
  agent.Do(SpoolChanged{2, true, true});
  agent.PassConnected(absl::Seconds(2));
  EXPECT_EQ(agent.Last<SendOrder>()->order.spooled, 2);
}

TEST(TrainerTest, OutputBecomesLogLinesAndEndsWithALineThatSaysWhy) {
  AgentHarness agent;
  agent.Connect();
  link::DesiredState want = Want(Stage::kPrepare, 1);
  want.rank = 1;
  agent.RunTrainer(want);
  agent.Do(TrainerOutput{agent.trainer(), "hello"});
  ASSERT_EQ(agent.Spooled<link::LogLine>().size(), 1u);
  EXPECT_EQ(agent.Spooled<link::LogLine>()[0].text, "hello");
  EXPECT_EQ(agent.Spooled<link::LogLine>()[0].rank, 1);
  EXPECT_EQ(agent.Spooled<link::LogLine>()[0].worker_id, "w0");
  agent.Die(80);
  EXPECT_EQ(agent.Spooled<link::LogLine>()[0].text,
            "trainer of attempt 1, rank 1: bad data (exit code 80)");
  ASSERT_EQ(agent.Spooled<link::Event>().size(), 1u);
  EXPECT_EQ(agent.Spooled<link::Event>()[0].kind, "trainer_exited");
}

TEST(TrainerTest, TheLastLineNamesTheRankThatTheTrainerHadThoughItsExitOrderHasNone) {
  AgentHarness agent;
  agent.Connect();
  link::DesiredState want = Want(Stage::kPrepare, 1);
  want.rank = 1;
  agent.RunTrainer(want);
  agent.Say(Want(Stage::kExit, 1));
  agent.Die(0);
  EXPECT_EQ(agent.Spooled<link::LogLine>()[0].text,
            "trainer of attempt 1, rank 1: done (exit code 0)");
}

TEST(TrainerTest, TheTrainersOwnErrorIsKeptAfterItsDeath) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Report({.stage = Stage::kPrepare, .error = "data.train: no such file"});
  agent.Die(80);
  EXPECT_EQ(agent.core().Observed().error, "data.train: no such file");
}

}  // namespace
}  // namespace vitscale::agent
