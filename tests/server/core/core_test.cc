#include "server/core/core.h"

#include "gmock/gmock.h"
#include "tests/server/core/core_harness.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

v1::CheckpointInfo Checkpoint(const std::string& job, int64_t step, int64_t attempt = 1,
                              int64_t generation = 1) {
  v1::CheckpointInfo info;
  info.set_id(absl::StrCat(job, "/a", attempt, ".g", generation, ".step_", step));
  info.set_step(step);
  info.set_lineage(1);
  info.set_attempt(attempt);
  info.set_generation(generation);
  return info;
}

class CoreTest : public testing::Test {
 protected:
  // A job of two workers that trains.
  std::string Running(int workers = 2) {
    for (int i = 0; i < workers; ++i) h_.AddAgent(absl::StrCat("w", i));
    const std::string id = h_.Submit(CoreHarness::Spec(workers));
    h_.Run(absl::Seconds(5));
    EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
    return id;
  }
  CoreHarness h_;
};

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

TEST_F(CoreTest, AJumpOfTheWallClockDeclaresNobodyDead) {
  const std::string id = Running();
  h_.clock().SetWall(h_.clock().Now() + absl::Hours(1));
  h_.Run(absl::Seconds(5));
  h_.clock().SetWall(h_.clock().Now() - absl::Hours(2));
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.CountEvents("worker_unreachable"), 0);
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

v1::DeviceInfo CardOf(const std::string& model) {
  v1::DeviceInfo device;
  device.set_kind(v1::DEVICE_CUDA);
  device.set_name("cuda0");
  device.set_model(model);
  device.set_instruction_set("sm_90");
  device.set_bf16(true);
  return device;
}

TEST_F(CoreTest, ADirtyCardIsShownAndTakesNothingUntilItIsClean) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  h_.Run(absl::Seconds(1));
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_IDLE);
  agent.device_use.emplace().set_dirty("process 4711 holds 71.3 GB of it");
  agent.device_use->set_free_bytes(8);
  h_.Run(absl::Seconds(1));
  v1::Worker worker = h_.core().Workers()[0];
  EXPECT_EQ(worker.state(), v1::WORKER_STATE_DIRTY);
  EXPECT_EQ(worker.reason(), "foreign_process");
  EXPECT_EQ(worker.device_use().dirty(), "process 4711 holds 71.3 GB of it");
  EXPECT_EQ(worker.device_use().free_bytes(), 8);
  EXPECT_EQ(h_.CountEvents("device_dirty"), 1) << "told once";
  const std::string id = h_.Submit(CoreHarness::Spec(1));
  h_.Run(absl::Seconds(10));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(h_.job(id).reason(), "not_enough_workers");
  agent.device_use->clear_dirty();
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_BUSY);
  EXPECT_EQ(h_.CountEvents("device_clean"), 1);
}

// What a trainer that runs shares its card with is no reason to stop it.
TEST_F(CoreTest, ACardThatTurnsDirtyUnderAJobKeepsIt) {
  const std::string id = Running(1);
  h_.agent("w0").device_use.emplace().set_dirty("process 4711 holds it");
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_BUSY);
}

TEST_F(CoreTest, AnyDeviceMeansAllOfOneKindAndCudaMeansCardsOfOneModel) {
  h_.AddAgent("cpu");
  for (const auto& [id, model] : {std::pair{"a", "NVIDIA H100 80GB HBM3"},
                                  std::pair{"b", "NVIDIA H200"}, std::pair{"c", "NVIDIA H200"}}) {
    SimulatedAgent& agent = h_.NewAgent(id);
    agent.device = CardOf(model);
    h_.Connect(agent);
  }
  v1::JobSpec three = CoreHarness::Spec(3), two = CoreHarness::Spec(2);
  three.mutable_resources()->set_device(v1::DEVICE_ANY);
  two.mutable_resources()->set_device(v1::DEVICE_ANY);
  const std::string large = h_.Submit(three), fits = h_.Submit(two);
  h_.Run(absl::Seconds(5));
  EXPECT_EQ(h_.state(large), v1::JOB_STATE_QUEUED) << "no three of one kind";
  EXPECT_EQ(h_.state(fits), v1::JOB_STATE_RUNNING);
  EXPECT_THAT(h_.job(fits).workers(), testing::ElementsAre("b", "c"));
  EXPECT_EQ(h_.agent("b").desired.instruction_set(), "") << "that is for CPUs";
  v1::JobSpec one = CoreHarness::Spec(1);
  one.mutable_resources()->set_device(v1::DEVICE_CUDA);
  const std::string card = h_.Submit(one);
  h_.Run(absl::Seconds(5));
  EXPECT_THAT(h_.job(card).workers(), testing::ElementsAre("a"));
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

TEST_F(CoreTest, AStoreThatTakesNothingRefusesMutationsAndKeepsGangs) {
  const std::string id = Running();
  h_.Handle(StoreStateEvent{false});
  EXPECT_THAT(h_.SetIntent(id, v1::INTENT_PAUSE), StatusIs(absl::StatusCode::kUnavailable));
  h_.KillTrainer(h_.agent("w1"));
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RUNNING);  // nothing is decided that cannot be written down
  h_.Handle(StoreStateEvent{true});
  EXPECT_EQ(h_.state(id), v1::JOB_STATE_RECOVERING);
}

TEST_F(CoreTest, AnOlderLifeOfAWorkerAndAWrongProtocolAreRefused) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  agent.life = 2;
  h_.Connect(agent);
  v1::RegisterRequest old = h_.Registration(agent);
  old.set_incarnation("w0-life1");
  old.set_incarnation_start_millis(1);
  const Token token = h_.NextToken();
  h_.Handle(RegisterEvent{token, old});
  EXPECT_THAT(h_.TakeAnswer(token)->status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("newer")));
  v1::RegisterRequest other = h_.Registration(agent);
  other.set_protocol_version(9);
  const Token second = h_.NextToken();
  h_.Handle(RegisterEvent{second, other});
  EXPECT_THAT(h_.TakeAnswer(second)->status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("protocol version")));
}

TEST_F(CoreTest, ALeftOverTrainerOfAnEndedAttemptIsToldToExit) {
  SimulatedAgent& agent = h_.AddAgent("w0");
  agent.frozen = true;
  agent.observed.set_job_id("unknown");
  agent.observed.set_attempt(3);
  agent.observed.set_stage(v1::STAGE_GO);
  agent.observed.set_trainer_pid(5);
  h_.Report(agent);
  EXPECT_EQ(agent.desired.stage(), v1::STAGE_EXIT);
  EXPECT_EQ(agent.desired.job_id(), "unknown");
  EXPECT_TRUE(agent.desired.kill());
  EXPECT_EQ(h_.core().Workers()[0].state(), v1::WORKER_STATE_RELEASING);
}

}  // namespace
}  // namespace vitscale
