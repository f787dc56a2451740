// Jobs that begin with a checkpoint of another job: branches and evaluations.

#include "gmock/gmock.h"
#include "tests/server/core/core_harness.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class BranchesTest : public testing::Test {
 protected:
  // A job of one worker that trains, on w0.
  BranchesTest() {
    h_.AddAgent("w0");
    parent_ = h_.Submit(CoreHarness::Spec(1));
    h_.Run(absl::Seconds(5));
    EXPECT_EQ(h_.state(parent_), v1::JOB_STATE_RUNNING);
    checkpoint_ = absl::StrCat(parent_, "/a0001.g0001.step_000000060");
  }

  std::string Branch(v1::JobKind kind = v1::JOB_KIND_PRETRAIN) {
    v1::JobSpec spec = CoreHarness::Spec(1);
    spec.set_from(absl::StrCat("checkpoints/", checkpoint_));
    spec.set_kind(kind);
    if (kind == v1::JOB_KIND_EVALUATE) spec.add_evals()->set_name("val");
    return h_.Submit(spec);
  }
  void Saves(const std::string& job, const std::string& worker, int64_t step) {
    v1::SpooledRecord record;
    record.set_job_id(job);
    v1::CheckpointInfo& info = *record.mutable_checkpoint();
    info.set_id(absl::StrCat(job, "/a0001.g0001.step_0000000", step));
    info.set_step(step);
    h_.Handle(RecordsEvent{worker, {record}, {}, h_.NextToken()});
  }
  // What the parent's rank is told to leave.
  std::vector<std::string> Kept() {
    h_.Run(absl::Seconds(1));
    const auto& kept = h_.agent("w0").desired.pinned_checkpoints();
    return {kept.begin(), kept.end()};
  }

  CoreHarness h_;
  std::string parent_, checkpoint_;
};

TEST_F(BranchesTest, ABranchBeginsAtTheStepOfItsCheckpointNotAtZero) {
  const std::string branch = Branch();
  EXPECT_EQ(h_.job(branch).step(), 60);
  EXPECT_EQ(h_.job(branch).first_step(), 60);
  h_.AddAgent("w1");
  h_.Run(absl::Seconds(5));
  ASSERT_EQ(h_.state(branch), v1::JOB_STATE_RUNNING);
  const v1::Source& source = h_.agent("w1").desired.source();
  EXPECT_TRUE(source.initialise());
  EXPECT_EQ(source.version().step(), 60);
  bool told = false;
  for (const v1::Event& event : h_.events()) {
    told |= event.kind() == "generation_formed" &&
            event.message().find("checkpoints/" + checkpoint_) != std::string::npos;
  }
  EXPECT_TRUE(told) << "what it starts from";
}

// A generation that dies before its first own step must not look as if it had made sixty.
TEST_F(BranchesTest, DyingBeforeTheFirstOwnStepIsNoProgress) {
  const std::string branch = Branch();
  SimulatedAgent& agent = h_.AddAgent("w1");
  for (int death = 0; death < 2; ++death) {
    for (int i = 0; i < 60 && agent.observed.stage() != v1::STAGE_GO; ++i) {
      h_.Run(absl::Milliseconds(100));
    }
    ASSERT_EQ(agent.observed.stage(), v1::STAGE_GO);
    agent.observed.set_step(60);  // as a trainer does that has loaded the parent's checkpoint
    agent.observed.set_committed_step(60);
    h_.Report(agent);
    h_.KillTrainer(agent, 83, "no device");
  }
  EXPECT_EQ(h_.core().FindJob(branch)->fruitless_attempts(), 1);
}

TEST_F(BranchesTest, TheParentsRetentionLeavesTheCheckpointUntilNoBranchNeedsIt) {
  EXPECT_THAT(Kept(), IsEmpty());
  const std::string first = Branch(), second = Branch();
  EXPECT_THAT(Kept(), ElementsAre(checkpoint_));
  Saves(first, "w1", 90);
  EXPECT_THAT(Kept(), ElementsAre(checkpoint_)) << "the second one still needs it";
  EXPECT_THAT(h_.SetIntent(second, v1::INTENT_CANCEL), IsOk());
  EXPECT_THAT(Kept(), IsEmpty());
}

TEST_F(BranchesTest, WhatUsersPinAndWhatBranchesNeedAreTwoThings) {
  const std::string branch = Branch();
  v1::CheckpointInfo info;
  info.set_id(checkpoint_);
  h_.Handle(PinEvent{{h_.NextToken(), "", 0, "uid:1"}, info, true});
  EXPECT_THAT(Kept(), ElementsAre(checkpoint_));
  h_.Handle(PinEvent{{h_.NextToken(), "", 0, "uid:1"}, info, false});
  EXPECT_THAT(Kept(), ElementsAre(checkpoint_)) << "an unpin takes nothing from a branch";
  h_.Handle(PinEvent{{h_.NextToken(), "", 0, "uid:1"}, info, true});
  EXPECT_THAT(h_.SetIntent(branch, v1::INTENT_KILL), IsOk());
  EXPECT_THAT(Kept(), ElementsAre(checkpoint_)) << "and the end of a branch nothing from a user";
}

TEST_F(BranchesTest, TheNeedIsInTheTransactionOfTheSubmissionAndOutlivesTheCoordinator) {
  h_.SetAutoCommit(false);
  Branch();
  ASSERT_FALSE(h_.uncommitted().empty());
  EXPECT_EQ(h_.uncommitted()[0].changes.jobs[0].held_checkpoint(), checkpoint_);
  h_.SetAutoCommit(true);
  h_.Handle(TickEvent{});
  h_.Restart();
  h_.Connect(h_.agent("w0"));
  EXPECT_THAT(Kept(), ElementsAre(checkpoint_));
}

TEST_F(BranchesTest, AnEvaluationSucceedsWithoutAStepOrACheckpoint) {
  h_.steps_total = 1000000;
  const std::string job = Branch(v1::JOB_KIND_EVALUATE);
  EXPECT_EQ(h_.job(job).total_steps(), 60);
  EXPECT_THAT(Kept(), ElementsAre(checkpoint_));
  SimulatedAgent& agent = h_.AddAgent("w1");
  for (int i = 0; i < 40 && agent.observed.stage() != v1::STAGE_GO; ++i) {
    h_.Run(absl::Milliseconds(100));
  }
  agent.frozen = true;
  agent.observed.set_step(60);
  agent.observed.set_finished(true);
  h_.Report(agent);
  EXPECT_EQ(h_.state(job), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(h_.job(job).step(), 60);
  EXPECT_EQ(h_.job(job).checkpoint(), "");
  EXPECT_THAT(h_.job(job).message(),
              HasSubstr(absl::StrCat("1 evaluations of checkpoints/", checkpoint_)));
  EXPECT_THAT(Kept(), IsEmpty());
}

TEST_F(BranchesTest, AnEvaluationThatIsStoppedHasNothingToSaveAndLeavesAtOnce) {
  const std::string job = Branch(v1::JOB_KIND_EVALUATE);
  SimulatedAgent& agent = h_.AddAgent("w1");
  for (int i = 0; i < 40 && agent.observed.stage() != v1::STAGE_GO; ++i) {
    h_.Run(absl::Milliseconds(100));
  }
  ASSERT_EQ(agent.observed.stage(), v1::STAGE_GO);
  agent.frozen = true;
  EXPECT_THAT(h_.SetIntent(job, v1::INTENT_CANCEL), IsOk());
  EXPECT_EQ(agent.desired.stage(), v1::STAGE_EXIT);
  EXPECT_FALSE(agent.desired.kill());
}

}  // namespace
}  // namespace vitscale
