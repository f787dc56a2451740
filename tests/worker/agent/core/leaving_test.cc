// How an agent without a coordinator stops its trainer in time, and how an agent leaves.

#include <algorithm>

#include "gmock/gmock.h"
#include "tests/worker/agent/core/agent_harness.h"

namespace vitscale::agent {
namespace {

using link::Stage;

// Loses its coordinator and lets time pass while the trainer goes on reporting. All actions, in
// order.
std::vector<Action> PassAlone(AgentHarness& agent, absl::Duration duration) {
  std::vector<Action> all;
  const auto keep = [&] {
    for (const KillTrainer& kill : agent.All<KillTrainer>()) all.push_back(kill);
    for (const SendOrder& order : agent.All<SendOrder>()) all.push_back(order);
  };
  for (absl::Duration left = duration; left > absl::ZeroDuration(); left -= absl::Seconds(1)) {
    agent.Pass(absl::Seconds(1));
    keep();
    agent.Do(SessionFailed{agent.core().session().session(), SessionError::kUnavailable, "gone"});
    keep();
    agent.Report({});
    keep();
  }
  return all;
}

bool Kills(const std::vector<Action>& actions) {
  return std::any_of(actions.begin(), actions.end(),
                     [](const Action& a) { return std::holds_alternative<KillTrainer>(a); });
}

bool Orphans(const std::vector<Action>& actions) {
  return std::any_of(actions.begin(), actions.end(), [](const Action& action) {
    const auto* order = std::get_if<SendOrder>(&action);
    return order != nullptr && order->order.orphaned;
  });
}

TEST(OrphanTest, TheWindowCountsFromWhenTheLastAcknowledgedHeartbeatWasSent) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.PassConnected(absl::Seconds(10));
  const absl::Time owned = agent.core().session().owned_since();
  // Messages that leave but are not acknowledged renew nothing.
  agent.Pass(absl::Seconds(10));
  EXPECT_FALSE(agent.All<SendMessage>().empty());
  EXPECT_EQ(agent.core().session().owned_since(), owned);
  // An acknowledgement counts from when its message was sent, not from when it comes.
  const int64_t last = agent.core().session().last_message();
  const absl::Time before = agent.now();
  agent.Sleep(absl::Seconds(3));
  agent.Do(CoordinatorSays{agent.core().session().session(), 1, last - 1, std::nullopt, 0});
  EXPECT_GT(agent.core().session().owned_since(), owned);
  EXPECT_LT(agent.core().session().owned_since(), before);
}

TEST(OrphanTest, TrainingGoesOnWithoutACoordinatorThenSavesThenIsKilledBeforeTheWindowEnds) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Say(std::nullopt);
  const absl::Time owned = agent.core().session().owned_since();
  std::vector<Action> actions =
      PassAlone(agent, owned + absl::Minutes(9) - absl::Seconds(2) - agent.now());
  EXPECT_FALSE(Orphans(actions));
  EXPECT_FALSE(Kills(actions));
  actions = PassAlone(agent, absl::Seconds(5));
  EXPECT_TRUE(Orphans(actions));
  EXPECT_FALSE(Kills(actions));
  actions = PassAlone(agent, owned + absl::Minutes(10) - absl::Seconds(1) - agent.now());
  EXPECT_TRUE(Kills(actions)) << "the device may be given away after the window";
}

TEST(OrphanTest, AnAcknowledgementInTimeKeepsTheTrainer) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  PassAlone(agent, absl::Minutes(8));
  agent.Pass(absl::Seconds(5));
  ASSERT_TRUE(agent.core().session().open());
  agent.Say(std::nullopt);
  EXPECT_GT(agent.core().session().owned_since(), agent.now() - absl::Seconds(6));
  agent.PassConnected(absl::Minutes(5));
  EXPECT_FALSE(agent.Last<KillTrainer>());
}

TEST(OrphanTest, NoTrainerStartsInAWindowThatIsAlmostOver) {
  AgentHarness agent;
  agent.Connect();
  PassAlone(agent, absl::Minutes(11));
  agent.Pass(absl::Seconds(5));
  ASSERT_TRUE(agent.core().session().open());
  // The coordinator's answer overtakes all acknowledgements.
  agent.Do(CoordinatorSays{agent.core().session().session(), 1, 0, Want(Stage::kPrepare, 1), 0});
  EXPECT_FALSE(agent.Last<StartTrainer>());
  agent.Say(std::nullopt);
  EXPECT_TRUE(agent.Last<StartTrainer>());
}

TEST(OrphanTest, AMachineThatSleptOverTheWindowKillsFirst) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Sleep(absl::Minutes(30));
  agent.Do(Tick{});
  EXPECT_TRUE(agent.Last<KillTrainer>());
}

TEST(LeavingTest, AnIdleAgentSaysSoAndEndsOnceItIsAcknowledged) {
  AgentHarness agent;
  agent.Connect();
  agent.Do(ShutdownRequested{});
  ASSERT_TRUE(agent.Last<SendMessage>());
  EXPECT_TRUE(agent.Last<SendMessage>()->observed.draining);
  EXPECT_FALSE(agent.Last<ExitAgent>());
  agent.Say(std::nullopt);
  ASSERT_TRUE(agent.Last<ExitAgent>());
  EXPECT_EQ(agent.Last<ExitAgent>()->code, 0);
}

TEST(LeavingTest, WithoutACoordinatorAnIdleAgentEndsAtOnce) {
  AgentHarness agent;
  agent.Do(Tick{});
  agent.Do(ShutdownRequested{});
  EXPECT_TRUE(agent.Last<ExitAgent>());
}

TEST(LeavingTest, AnUnansweringCoordinatorIsNotWaitedForLongerThanTheLinger) {
  AgentHarness agent;
  agent.Connect();
  agent.Do(ShutdownRequested{});
  agent.Pass(absl::Seconds(4));
  EXPECT_FALSE(agent.Last<ExitAgent>());
  agent.Pass(absl::Seconds(1));
  EXPECT_TRUE(agent.Last<ExitAgent>());
}

TEST(LeavingTest, ABusyAgentAsksForADrainAndLetsItsJobLeaveInGoodOrder) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(ShutdownRequested{});
  EXPECT_TRUE(agent.Last<SendMessage>()->observed.draining);
  EXPECT_FALSE(agent.Last<KillTrainer>());
  agent.Say(Want(Stage::kExit, 1));
  EXPECT_EQ(agent.Last<SendOrder>()->order.desired->stage, Stage::kExit);
  agent.Die(75);
  EXPECT_FALSE(agent.Last<ExitAgent>()) << "the coordinator must hear of it";
  agent.Say(Idle());
  if (!agent.Last<ExitAgent>()) agent.Say(std::nullopt);
  EXPECT_TRUE(agent.Last<ExitAgent>());
}

TEST(LeavingTest, RecordsAreHandedInBeforeTheEnd) {
  AgentHarness agent;
  agent.Connect();
  agent.Do(SpoolChanged{5, false, true});
  agent.Do(ShutdownRequested{});
  agent.Say(std::nullopt);
  EXPECT_FALSE(agent.Last<ExitAgent>());
  agent.Do(SpoolChanged{0, false, true});
  EXPECT_TRUE(agent.Last<ExitAgent>());
}

TEST(LeavingTest, AJobThatDoesNotLeaveInTimeIsKilled) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(ShutdownRequested{});
  agent.PassConnected(absl::Seconds(149));
  EXPECT_FALSE(agent.Last<KillTrainer>());
  agent.PassConnected(absl::Seconds(2));
  EXPECT_TRUE(agent.Last<KillTrainer>());
  EXPECT_FALSE(agent.Last<ExitAgent>());
}

TEST(LeavingTest, ASecondSignalKillsAtOnce) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(ShutdownRequested{});
  agent.Do(ShutdownRequested{});
  EXPECT_TRUE(agent.Last<KillTrainer>());
}

TEST(LeavingTest, AProcessThatCannotBeKilledDoesNotHoldTheAgentForEver) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(ShutdownRequested{});
  agent.Do(ShutdownRequested{});
  agent.PassConnected(absl::Seconds(29));
  EXPECT_EQ(agent.All<KillTrainer>().size(), 2u);
  EXPECT_FALSE(agent.Last<ExitAgent>());
  agent.PassConnected(absl::Seconds(1));
  EXPECT_TRUE(agent.Last<ExitAgent>());
}

TEST(LeavingTest, WithoutACoordinatorTheTrainerSavesByItself) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kUnavailable, "gone"});
  agent.Do(ShutdownRequested{});
  ASSERT_TRUE(agent.Last<SendOrder>());
  EXPECT_TRUE(agent.Last<SendOrder>()->order.orphaned);
  EXPECT_FALSE(agent.Last<ExitAgent>());
  agent.Die(75);
  EXPECT_TRUE(agent.Last<ExitAgent>());
}

TEST(LeavingTest, NothingStartsInALeavingAgent) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(ShutdownRequested{});
  agent.Die(137);
  agent.Say(Want(Stage::kForm, 2));
  EXPECT_FALSE(agent.Last<StartTrainer>());
}

TEST(LeavingTest, NothingHappensAfterTheEnd) {
  AgentHarness agent;
  agent.Do(ShutdownRequested{});
  ASSERT_TRUE(agent.Last<ExitAgent>());
  agent.Do(Tick{});
  EXPECT_TRUE(agent.All<Register>().empty());
  EXPECT_EQ(agent.core().NextDeadline(), absl::InfiniteFuture());
}

}  // namespace
}  // namespace vitscale::agent
