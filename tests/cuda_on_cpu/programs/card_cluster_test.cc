// A job on a worker with a card, from submit to its end: real coordinator, agent and trainer, the
// plugin made for the host, and a management library that says what the test wants.

#include <signal.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/e2e/cluster_test.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kDeadline = absl::Seconds(60);

class CardClusterTest : public ClusterTest {
 protected:
  static void SetUpTestSuite() { StartCluster({.workers = 0}); }

  void SetUp() override {
    ClusterTest::SetUp();
    Say("");
    const std::string& folder = cluster_->folder();
    const auto worker = StartProgram(
        {Binary("vitscale-worker"), "--coordinator=" + cluster_->address(), "--worker-id=gpu",
         "--device=cuda0", "--trainer=" VITSCALE_TRAINER, "--state-dir=" + folder + "/gpu",
         "--lock-dir=" + folder, "--data-root=" + folder, "--checkpoint-root=" + folder},
        {{"VITSCALE_TEST_CLUSTER", folder},
         {"VITSCALE_NVML", VITSCALE_FAKE_NVML},
         {"FAKE_NVML", folder + "/cards"}},
        folder + "/gpu.log");
    ASSERT_THAT(worker, IsOk());
    worker_ = *worker;
  }
  void TearDown() override {
    kill(worker_, SIGTERM);
    EXPECT_THAT(WaitForExit(worker_, kDeadline), IsOk());
  }
  // Atomically: programs read it at any moment.
  static void Say(const std::string& processes) {
    const std::string path = cluster_->folder() + "/cards";
    std::ofstream(path + ".new") << "count 1\ncard 0 name NVIDIA H100 80GB HBM3\n"
                                    "card 0 uuid GPU-00000000-0000-0000-0000-000000000000\n"
                                    "card 0 memory 85520809984 600000000 84900000000 20000000\n"
                                 << processes;
    ASSERT_EQ(rename((path + ".new").c_str(), path.c_str()), 0);
  }
  static bool WaitForWorkers(const std::string& part) {
    const absl::Time end = absl::Now() + kDeadline;
    while (absl::Now() < end) {
      if (cluster_->Cli({"workers", "-o", "wide"}).out.find(part) != std::string::npos) return true;
      absl::SleepFor(absl::Milliseconds(100));
    }
    return false;
  }
  static std::string Job(int steps) {
    return absl::StrCat(
        "name: card\n"
        "resources: {workers: {min: 1, max: 1}, device: cuda}\n"
        "model: {custom: {patch: 8, width: 32, depth: 1, heads: 2, mlp_width: 64}, "
        "image_size: 16, channels: 1, classes: 4}\n"
        "data: {train: {format: synthetic, synthetic_images: 256}}\n"
        "optimizer: {name: adafactor, lr: 3e-2}\n"
        "schedule: {name: rsqrt, warmup: 1 steps, timescale: 100 steps, total: ",
        steps,
        " steps}\n"
        "batch: {global: 16}\n"
        "evals: [{name: val, kind: classify, data: {format: synthetic, synthetic_images: 33}}]\n"
        "checkpoint: {dir: card, every: 5 steps}\n");
  }

  pid_t worker_ = 0;
};

TEST_F(CardClusterTest, AJobWaitsWhileSomebodyElseHoldsTheCardAndThenTrainsOnIt) {
  ASSERT_TRUE(WaitForWorkers("gpu  IDLE")) << cluster_->CoordinatorLog();
  Say("card 0 process 4711 71300000000\n");
  ASSERT_TRUE(WaitForWorkers("foreign_process: process 4711 holds 71.3 GB of it"));
  EXPECT_THAT(cluster_->Cli({"workers"}).out,
              AllOf(HasSubstr("gpu  DIRTY"), HasSubstr("NVIDIA H100 80GB HBM3")));
  const auto job = cluster_->Submit(Job(10));
  ASSERT_THAT(job, IsOk());
  absl::SleepFor(absl::Seconds(3));
  EXPECT_EQ(cluster_->JobState(*job), "QUEUED");
  Say("");
  ASSERT_THAT(cluster_->WaitForState(*job, {"SUCCEEDED", "FAILED"}, kDeadline), IsOk());
  const nlohmann::json done = cluster_->GetJob(*job);
  EXPECT_EQ(done["state"], "SUCCEEDED") << done.dump();
  const nlohmann::json& numerics = done["numerics"];
  EXPECT_EQ(numerics["backend"], "cuda");
  EXPECT_EQ(numerics["instruction_set"], "sm_90");
  EXPECT_EQ(numerics["precision"], "bf16") << "what auto means on a card";
  EXPECT_EQ(JsonInt(done["failures"]), 0);
  const auto steps = cluster_->Steps(*job, 10);
  ASSERT_EQ(steps.size(), 10u);
  EXPECT_LT(steps.back()["loss"].get<double>(), steps.front()["loss"].get<double>());
}

}  // namespace
}  // namespace vitscale
