// One long run, branches of it and evaluations of what they saved, with real processes.

#include <signal.h>

#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/e2e/cluster_test.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kDeadline = absl::Seconds(90);

class BranchE2eTest : public ClusterTest {
 protected:
  std::string Submitted(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "submit");
    arguments.push_back("-q");
    const CommandResult result = cluster_->Cli(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out.substr(0, result.out.find('\n'));
  }
  std::string FinishedRun(int steps) {
    const absl::StatusOr<std::string> job = cluster_->Submit(TinyJob(steps));
    EXPECT_THAT(job, IsOk());
    EXPECT_THAT(cluster_->WaitForState(*job, {"SUCCEEDED"}, kDeadline), IsOk());
    return *job;
  }
  nlohmann::json Checkpoints(const std::string& job) {
    const CommandResult result = cluster_->Cli({"checkpoints", "list", job, "-o", "json"});
    return nlohmann::json::parse(result.out, nullptr, false);
  }
};

TEST_F(BranchE2eTest, ABranchHasItsOwnEndAndItsEvaluationAgainGivesTheSame) {
  const std::string run = FinishedRun(200);
  const nlohmann::json saved = Checkpoints(run);
  ASSERT_GE(saved.size(), 2u) << "the end, and one before";
  const std::string from = saved.at(1).at("id");
  const int64_t at = JsonInt(saved.at(1).at("step"));
  const std::string branch =
      Submitted({"--from", from, "--set", absl::StrCat("schedule.total=", at + 10, " steps"),
                 "--set", "schedule.cooldown=5 steps"});
  ASSERT_THAT(cluster_->WaitForState(branch, {"SUCCEEDED"}, kDeadline), IsOk())
      << cluster_->CoordinatorLog();
  EXPECT_EQ(cluster_->Cli({"wait", branch}, kDeadline).exit_code, 0) << "its last records, too";
  const nlohmann::json job = cluster_->GetJob(branch);
  EXPECT_EQ(job.at("spec").at("name"), "tiny-branch");
  EXPECT_EQ(job.at("spec").at("from"), "tiny/" + from);
  EXPECT_EQ(JsonInt(job.at("first_step")), at);
  EXPECT_EQ(JsonInt(job.at("step")), at + 10);
  const auto steps = cluster_->Steps(branch, 10), parents = cluster_->Steps(run, 200);
  ASSERT_EQ(steps.size(), 10u);
  for (int i = 0; i < 5; ++i) {  // the cooldown begins after the fifth
    EXPECT_EQ(JsonInt(steps[i].at("step")), at + 1 + i);
    EXPECT_EQ(steps[i].at("loss"), parents[at + i].at("loss")) << i;
    EXPECT_EQ(steps[i].at("learning_rate"), parents[at + i].at("learning_rate")) << i;
  }
  EXPECT_EQ(Checkpoints(branch).at(0).at("parent"), from);

  const CommandResult evaluated = cluster_->Cli({"evaluate", branch, "-o", "json"}, kDeadline);
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.err;
  const nlohmann::json records = nlohmann::json::parse(evaluated.out, nullptr, false);
  ASSERT_EQ(records.size(), 1u) << evaluated.out;
  EXPECT_EQ(records[0].at("name"), "val");
  EXPECT_EQ(JsonInt(records[0].at("step")), at + 10);
  EXPECT_EQ(JsonInt(records[0].at("images")), (at + 10) * 32);
  EXPECT_EQ(records[0].at("values"), job.at("last_evals")[0].at("values"));
  const CommandResult alone = cluster_->Cli(
      {"evaluate", from, "--workers", "1", "--data", "{format: synthetic, synthetic_images: 77}"},
      kDeadline);
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_THAT(alone.out, HasSubstr("classify"));
}

TEST_F(BranchE2eTest, WhatCannotBranchIsRefusedAtOnceWithItsReason) {
  const std::string run = FinishedRun(20);
  const auto refused = [&](std::vector<std::string> arguments, int code, const std::string& text) {
    arguments.insert(arguments.begin(), "submit");
    const CommandResult result = cluster_->Cli(arguments);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_THAT(result.err, HasSubstr(text));
  };
  refused({"--from", run + "/a0001.g0001.step_000000013"}, 3, "no checkpoint");
  refused({"--from", "nosuchjob000"}, 3, "nosuchjob000");
  refused({"--from", run, "--set", "schedule.total=20 steps"}, 2, "schedule.total");
  refused({"--from", run, "--set", "schedule.total=30 steps", "--set", "model.custom.depth=3"}, 2,
          "from: model: depth is 3, the checkpoint's run has 2");
  // Nobody here knows this one: its workers say it, and it is not tried again.
  const std::string job = Submitted({"--from", run, "--set", "schedule.total=30 steps", "--set",
                                     "from=tiny/unknown00000/a0001.g0001.step_000000010"});
  ASSERT_THAT(cluster_->WaitForState(job, {"FAILED"}, kDeadline), IsOk());
  EXPECT_EQ(cluster_->GetJob(job).at("reason"), "bad_configuration");
  EXPECT_THAT(cluster_->GetJob(job).at("message").get<std::string>(), HasSubstr("from: "));
}

TEST_F(BranchE2eTest, ATrainerKilledBeforeTheFirstOwnCheckpointStartsFromTheParentAgain) {
  const std::string run = FinishedRun(40);
  const std::string branch = Submitted({"--from", run, "--set", "schedule.total=3000 steps",
                                        "--set", "checkpoint.every=100000 steps"});
  ASSERT_THAT(cluster_->WaitForStep(branch, 60, kDeadline), IsOk());
  const auto trainers = cluster_->Trainers();
  ASSERT_FALSE(trainers.empty());
  kill(trainers[0].pid, SIGKILL);
  ASSERT_THAT(cluster_->WaitForState(branch, {"SUCCEEDED"}, kDeadline), IsOk())
      << cluster_->CoordinatorLog();
  EXPECT_GE(JsonInt(cluster_->GetJob(branch).at("recoveries")), 1);
  const auto steps = cluster_->Steps(branch, 2960);
  ASSERT_EQ(steps.size(), 2960u);
  EXPECT_EQ(JsonInt(steps.front().at("step")), 41);
}

TEST_F(BranchE2eTest, RetentionOfTheParentLeavesWhatAWaitingBranchNeeds) {
  const absl::StatusOr<std::string> run = cluster_->Submit(TinyJob(1000000));
  ASSERT_THAT(run, IsOk());
  ASSERT_THAT(cluster_->WaitForStep(*run, 30, kDeadline), IsOk());
  while (Checkpoints(*run).empty()) absl::SleepFor(absl::Milliseconds(20));
  const std::string branch = Submitted({"--from", *run});  // waits: both workers are taken
  const std::string folder =
      absl::StrCat(cluster_->folder(), "/checkpoints/",
                   cluster_->GetJob(branch).at("spec").at("from").get<std::string>());
  EXPECT_TRUE(std::filesystem::exists(folder + "/manifest.json"));
  const int64_t then = cluster_->JobStep(*run);
  ASSERT_THAT(cluster_->WaitForStep(*run, then + 200, kDeadline), IsOk());
  EXPECT_TRUE(std::filesystem::exists(folder + "/manifest.json")) << folder;
  EXPECT_EQ(cluster_->Cli({"cancel", branch}).exit_code, 0);
  const absl::Time end = absl::Now() + kDeadline;
  while (std::filesystem::exists(folder) && absl::Now() < end)
    absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(std::filesystem::exists(folder)) << "nobody needs it any more";
  EXPECT_EQ(cluster_->Cli({"kill", *run}).exit_code, 0);
  EXPECT_THAT(cluster_->WaitForState(*run, {"CANCELLED"}, kDeadline), IsOk());
}

}  // namespace
}  // namespace vitscale
