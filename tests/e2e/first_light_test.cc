// The main line, with real processes: submit, train on two workers, look at it, steer it.

#include <fstream>
#include <memory>

#include "gtest/gtest.h"
#include "tests/e2e/cluster_test.h"
#include "tests/e2e/verify_checkpoints.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kDeadline = absl::Seconds(90);

class FirstLightTest : public ClusterTest {
 protected:
  std::string Submit(const std::string& yaml, std::vector<std::string> flags = {}) {
    absl::StatusOr<std::string> job = cluster_->Submit(yaml, std::move(flags));
    EXPECT_THAT(job, IsOk());
    return job.value_or("");
  }
};

TEST_F(FirstLightTest, AJobRunsToItsEndAndEveryStepIsInTheStore) {
  const std::string job = Submit(TinyJob(40));
  const CommandResult watch = cluster_->Cli({"watch", job}, kDeadline);
  EXPECT_EQ(watch.exit_code, 0) << watch.err << cluster_->CoordinatorLog();
  EXPECT_THAT(watch.out + watch.err, HasSubstr("SUCCEEDED"));
  const std::vector<nlohmann::json> rows = cluster_->Steps(job, 40);
  ASSERT_EQ(rows.size(), 40u);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(JsonInt(rows[i]["step"]), static_cast<int64_t>(i) + 1);
    EXPECT_EQ(JsonInt(rows[i]["images"]), 32 * (static_cast<int64_t>(i) + 1));
  }
  EXPECT_LT(rows.back()["loss"].get<double>(), rows.front()["loss"].get<double>());
  const nlohmann::json done = cluster_->GetJob(job);
  EXPECT_THAT(done.dump(), HasSubstr("top1"));
  EXPECT_THAT(VerifyCheckpoints(cluster_->folder() + "/checkpoints"), IsOk());
}

TEST_F(FirstLightTest, WaitReturnsTheFateOfTheJob) {
  const std::string done = Submit(TinyJob(5));
  EXPECT_EQ(cluster_->Cli({"wait", done}, kDeadline).exit_code, 0);
  const std::string cancelled = Submit(TinyJob(100000));
  EXPECT_EQ(cluster_->Cli({"cancel", cancelled}).exit_code, 0);
  EXPECT_EQ(cluster_->Cli({"wait", cancelled}, kDeadline).exit_code, 103);
}

TEST_F(FirstLightTest, TheSameIdempotencyKeySubmitsOnce) {
  const std::string first = Submit(TinyJob(5), {"--idempotency-key", "once-1"});
  const std::string second = Submit(TinyJob(5), {"--idempotency-key", "once-1"});
  EXPECT_EQ(first, second);
  EXPECT_THAT(cluster_->Submit(TinyJob(6), {"--idempotency-key", "once-1"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("once-1")));
  EXPECT_EQ(cluster_->Cli({"wait", first}, kDeadline).exit_code, 0);
}

TEST_F(FirstLightTest, APausedJobResumesWhereItStood) {
  const std::string job = Submit(TinyJob(3000, 500));
  ASSERT_THAT(cluster_->WaitForStep(job, 10, kDeadline), IsOk()) << cluster_->CoordinatorLog();
  EXPECT_EQ(cluster_->Cli({"pause", job}).exit_code, 0);
  ASSERT_THAT(cluster_->WaitForState(job, {"PAUSED"}, kDeadline), IsOk());
  EXPECT_TRUE(cluster_->Trainers().empty());
  EXPECT_EQ(cluster_->Cli({"resume", job}).exit_code, 0);
  ASSERT_THAT(cluster_->WaitForState(job, {"SUCCEEDED"}, kDeadline), IsOk());
  EXPECT_EQ(cluster_->Steps(job, 3000).size(), 3000u);
}

TEST_F(FirstLightTest, AJobOfHigherPriorityPreemptsAndTheVictimResumesByItself) {
  const std::string low = Submit(TinyJob(3000, 500));
  ASSERT_THAT(cluster_->WaitForStep(low, 5, kDeadline), IsOk());
  const std::string high = Submit(TinyJob(10), {"--priority", "5"});
  EXPECT_THAT(cluster_->WaitForState(high, {"SUCCEEDED"}, kDeadline), IsOk());
  EXPECT_THAT(cluster_->WaitForState(low, {"SUCCEEDED"}, kDeadline), IsOk());
  EXPECT_EQ(JsonInt(cluster_->GetJob(low)["preemptions"]), 1);
  EXPECT_EQ(cluster_->Steps(low, 3000).size(), 3000u);
}

TEST_F(FirstLightTest, AKilledJobIsCancelledAndLeavesNoTrainer) {
  const std::string job = Submit(TinyJob(100000));
  ASSERT_THAT(cluster_->WaitForStep(job, 3, kDeadline), IsOk());
  EXPECT_EQ(cluster_->Cli({"kill", job}).exit_code, 0);
  EXPECT_THAT(cluster_->WaitForState(job, {"CANCELLED"}, kDeadline), IsOk());
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (!cluster_->Trainers().empty() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_TRUE(cluster_->Trainers().empty());
}

TEST_F(FirstLightTest, PlotDrawsTheLossCurve) {
  const std::string job = Submit(TinyJob(20));
  ASSERT_THAT(cluster_->WaitForState(job, {"SUCCEEDED"}, kDeadline), IsOk());
  const std::string path = cluster_->folder() + "/loss.svg";
  EXPECT_EQ(cluster_->Cli({"plot", job, "--output", path}).exit_code, 0);
  std::ifstream in(path);
  const std::string svg((std::istreambuf_iterator<char>(in)), {});
  EXPECT_THAT(svg, HasSubstr("<svg"));
  EXPECT_THAT(svg, HasSubstr("polyline"));
}

TEST_F(FirstLightTest, SummarySaysWhatCameOut) {
  const std::string job = Submit(TinyJob(20));
  ASSERT_THAT(cluster_->WaitForState(job, {"SUCCEEDED"}, kDeadline), IsOk());
  const CommandResult result = cluster_->Cli({"summary", job, "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json summary = nlohmann::json::parse(result.out, nullptr, false);
  for (const char* key : {"top1", "loss", "images_per_second", "training_seconds", "checkpoint"}) {
    EXPECT_TRUE(summary.contains(key)) << key << " in " << result.out;
  }
}

}  // namespace
}  // namespace vitscale
