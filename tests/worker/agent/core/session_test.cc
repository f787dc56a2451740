// Registration, heartbeats, back-off and refusals of the agent's side of a session.

#include "gmock/gmock.h"
#include "tests/worker/agent/core/agent_harness.h"

namespace vitscale::agent {
namespace {

using link::Stage;
using testing::HasSubstr;

TEST(SessionTest, RegistersOpensAndReportsItselfIdle) {
  AgentHarness agent;
  agent.Do(Tick{});
  ASSERT_EQ(agent.All<Register>().size(), 1u);
  agent.Do(Registered{agent.Last<Register>()->session, "c", 4, absl::Seconds(2), absl::Seconds(15),
                      absl::Minutes(10)});
  ASSERT_TRUE(agent.Last<OpenSession>());
  EXPECT_EQ(agent.Last<OpenSession>()->credential, "c");
  ASSERT_EQ(agent.All<SendMessage>().size(), 1u);
  const SendMessage message = *agent.Last<SendMessage>();
  EXPECT_EQ(message.term, 4);
  EXPECT_EQ(message.number, 1);
  EXPECT_EQ(message.observed.stage, Stage::kIdle);
  EXPECT_TRUE(message.observed.device_free);
  EXPECT_EQ(message.observed.trainer_pid, 0);
}

TEST(SessionTest, SendsTheWholeStateWithEachHeartbeat) {
  AgentHarness agent;
  agent.Connect();
  agent.PassConnected(absl::Seconds(20));
  EXPECT_EQ(agent.All<SendMessage>().size(), 10u);
  int64_t before = 1;
  for (const SendMessage& message : agent.All<SendMessage>()) {
    EXPECT_EQ(message.number, ++before);
    EXPECT_EQ(message.observed, agent.core().Observed());
  }
}

TEST(SessionTest, BacksOffWithJitterButNeverLongerThanAThirdOfTheLease) {
  AgentHarness agent;
  agent.Do(Tick{});
  absl::Duration last;
  std::vector<absl::Duration> delays;
  for (int i = 0; i < 12; ++i) {
    agent.Do(
        SessionFailed{agent.core().session().session(), SessionError::kUnavailable, "refused"});
    const absl::Duration delay = agent.core().NextDeadline() - agent.now();
    delays.push_back(delay);
    EXPECT_GE(delay, absl::Milliseconds(100));
    EXPECT_LE(delay, absl::Seconds(5));
    agent.Pass(delay);
    ASSERT_TRUE(agent.Last<Register>()) << i;
  }
  EXPECT_GE(delays.back(), absl::Milliseconds(2500));
  EXPECT_NE(delays[10], delays[11]);
}

TEST(SessionTest, SaysOnceThatTheCoordinatorIsAbsentAndOnceThatItIsBack) {
  AgentHarness agent;
  agent.Do(Tick{});
  const std::string message = "coordinator 127.0.0.1:7480: connection refused";
  std::string logged;
  for (int i = 0; i < 5; ++i) {
    agent.Do(SessionFailed{agent.core().session().session(), SessionError::kUnavailable, message});
    logged += agent.Logged();
    agent.Pass(absl::Seconds(5));
  }
  EXPECT_EQ(logged, message + "; trying again\n");
  agent.Do(Registered{agent.core().session().session(), "c", 1, absl::Seconds(2), absl::Seconds(15),
                      absl::Minutes(10)});
  agent.Say(std::nullopt);
  EXPECT_THAT(agent.Logged(), HasSubstr("is back"));
}

TEST(SessionTest, GivesUpASessionThatIsSilentForALease) {
  AgentHarness agent;
  agent.Connect();
  const int64_t session = agent.core().session().session();
  agent.Pass(AgentHarness::kLease);
  ASSERT_TRUE(agent.Last<CloseSession>());
  EXPECT_EQ(agent.Last<CloseSession>()->session, session);
  agent.Pass(absl::Seconds(5));
  EXPECT_TRUE(agent.Last<OpenSession>());
}

TEST(SessionTest, KeepsItsCredentialOverABrokenStreamAndRegistersAgainWhenItIsRefused) {
  AgentHarness agent;
  agent.Connect();
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kUnavailable, "reset"});
  agent.Pass(absl::Seconds(5));
  ASSERT_TRUE(agent.Last<OpenSession>());
  EXPECT_FALSE(agent.Last<Register>());
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kRefused, "credential"});
  EXPECT_TRUE(agent.Last<Register>()) << "at once: the coordinator is there";
}

TEST(SessionTest, IgnoresEventsOfFormerSessions) {
  AgentHarness agent;
  agent.Connect();
  const int64_t old = agent.core().session().session();
  agent.Do(SessionFailed{old, SessionError::kUnavailable, "reset"});
  agent.Pass(absl::Seconds(5));
  agent.Do(CoordinatorSays{old, 1, 1, Want(Stage::kPrepare, 1), 7});
  EXPECT_FALSE(agent.Last<StartTrainer>());
  EXPECT_FALSE(agent.Last<AcknowledgeSpool>());
  agent.Do(SessionFailed{old, SessionError::kUnavailable, "late"});
  EXPECT_TRUE(agent.core().session().open());
}

TEST(SessionTest, RefusesALowerTermAndAnswersWithTheOneItHasSeen) {
  AgentHarness agent;
  agent.Connect(/*term=*/5);
  agent.Say(Want(Stage::kPrepare, 1), /*term=*/4);
  EXPECT_FALSE(agent.Last<StartTrainer>());
  ASSERT_TRUE(agent.Last<SendMessage>());
  EXPECT_EQ(agent.Last<SendMessage>()->term, 5);
}

TEST(SessionTest, DoesNotServeACoordinatorThatRegistersItUnderALowerTerm) {
  AgentHarness agent;
  agent.Connect(/*term=*/5);
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kRefused, "credential"});
  agent.Do(Registered{agent.core().session().session(), "c", 4, absl::Seconds(2), absl::Seconds(15),
                      absl::Minutes(10)});
  EXPECT_FALSE(agent.Last<OpenSession>());
  EXPECT_THAT(agent.Logged(), HasSubstr("term 4 refused: term 5 has been seen"));
  EXPECT_EQ(agent.core().session().term(), 5);
}

TEST(SessionTest, TakesAHigherTermFromAMessage) {
  AgentHarness agent;
  agent.Connect(5);
  agent.Say(Want(Stage::kPrepare, 1), 6);
  EXPECT_TRUE(agent.Last<StartTrainer>());
  EXPECT_EQ(agent.Last<SendMessage>()->term, 6);
}

// (attempt, generation) that was seen, that comes, and whether it is taken.
TEST(SessionTest, RefusesALowerAttemptOrGenerationOfAJob) {
  struct Case {
    int64_t attempt, generation;
    bool taken;
  };
  for (const Case& c : {Case{2, 6, true}, Case{2, 5, true}, Case{2, 4, false}, Case{1, 9, false},
                        Case{3, 6, true}}) {
    AgentHarness agent;
    agent.Connect();
    agent.RunTrainer(Want(Stage::kPrepare, 5, 2));
    agent.Say(Want(Stage::kForm, c.generation, c.attempt));
    EXPECT_EQ(agent.core().desired().stage == Stage::kForm, c.taken)
        << c.attempt << " " << c.generation;
    if (!c.taken) {
      EXPECT_TRUE(agent.Last<SendMessage>()) << "the answer says what stands";
      EXPECT_THAT(agent.Logged(), HasSubstr("refused, attempt 2 generation 5 has been seen"));
    }
  }
}

TEST(SessionTest, ProgressIsSentWithin200MillisecondsAndOtherChangesAtOnce) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Say(std::nullopt);
  agent.Report({.stage = Stage::kGo, .step = 1});
  ASSERT_EQ(agent.All<SendMessage>().size(), 1u);
  agent.Report({.stage = Stage::kGo, .step = 2});
  EXPECT_EQ(agent.All<SendMessage>().size(), 0u);
  agent.Report({.stage = Stage::kGo, .step = 3, .collective_failed = true});
  ASSERT_EQ(agent.All<SendMessage>().size(), 1u);
  agent.Report({.stage = Stage::kGo, .step = 4, .collective_failed = true});
  agent.Pass(absl::Milliseconds(200));
  ASSERT_EQ(agent.All<SendMessage>().size(), 1u);
  EXPECT_EQ(agent.Last<SendMessage>()->observed.step, 4);
}

TEST(SessionTest, UnsentRecordsMakeAMessageWithin100Milliseconds) {
  AgentHarness agent;
  agent.Connect();
  agent.Do(SpoolChanged{3, true, true});
  agent.Pass(absl::Milliseconds(100));
  ASSERT_EQ(agent.All<SendMessage>().size(), 1u);
  EXPECT_EQ(agent.Last<SendMessage>()->observed.spooled, 3);
}

TEST(SessionTest, AcknowledgedRecordsLeaveTheSpool) {
  AgentHarness agent;
  agent.Connect();
  agent.Do(CoordinatorSays{agent.core().session().session(), 1, 1, std::nullopt, 42});
  ASSERT_TRUE(agent.Last<AcknowledgeSpool>());
  EXPECT_EQ(agent.Last<AcknowledgeSpool>()->number, 42);
}

TEST(SessionTest, EndsWithCode78WhenItsConfigurationIsRefusedAtTheFirstTry) {
  AgentHarness agent;
  agent.Do(Tick{});
  agent.Do(SessionFailed{agent.Last<Register>()->session, SessionError::kConfiguration,
                         "coordinator speaks protocol version 2, this worker 1"});
  ASSERT_TRUE(agent.Last<ExitAgent>());
  EXPECT_EQ(agent.Last<ExitAgent>()->code, 78);
  EXPECT_THAT(agent.Last<ExitAgent>()->why, HasSubstr("protocol version 2"));
}

TEST(SessionTest, ARunningTrainerOutlivesACoordinatorThatCameBackWithAnotherSecret) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kRefused, "credential"});
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kConfiguration, "secret"});
  EXPECT_FALSE(agent.Last<ExitAgent>());
  EXPECT_FALSE(agent.Last<KillTrainer>());
}

TEST(SessionTest, AFencedAgentKillsItsTrainerAndEndsWithCode85) {
  AgentHarness agent;
  agent.Connect();
  agent.RunTrainer(Want(Stage::kPrepare, 1));
  agent.Do(SessionFailed{agent.core().session().session(), SessionError::kFenced, "newer life"});
  EXPECT_TRUE(agent.Last<KillTrainer>());
  EXPECT_FALSE(agent.Last<ExitAgent>());
  agent.Die(137);
  ASSERT_TRUE(agent.Last<ExitAgent>());
  EXPECT_EQ(agent.Last<ExitAgent>()->code, 85);
}

}  // namespace
}  // namespace vitscale::agent
