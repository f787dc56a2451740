// Branches of one long run: whole trainers as threads, and vitscale-train with kills.

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/files.h"
#include "proto/spec/checkpoint_ref.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/plan/schedule.h"
#include "worker/trainer/standalone.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kName60[] = "a0001.g0001.step_000000060";
constexpr char kParent60[] = "longrun00000/a0001.g0001.step_000000060";
constexpr char kFrom[] = "runs/longrun00000/a0001.g0001.step_000000060";

std::string Schedule(int total, int cooldown) {
  return absl::StrCat("{name: rsqrt, warmup: 10 steps, timescale: 40 steps, cooldown: ", cooldown,
                      " steps, total: ", total, " steps}");
}

TestGang::Options JobOf(const TemporaryDirectory& folder, int ranks, const std::string& id,
                        std::map<std::string, std::string> job) {
  job.try_emplace("checkpoint", "{dir: runs, every: 30 steps}");
  TestGang::Options options;
  options.job = TinyJob(job);
  options.job_id = id;
  options.ranks = ranks;
  options.checkpoint_root = folder.path();
  return options;
}

// 60 steps of a run, whose checkpoints the tests start from.
void TrainParent(const TemporaryDirectory& folder, int ranks) {
  const auto results =
      RunGang(JobOf(folder, ranks, "longrun00000", {{"schedule", Schedule(60, 0)}}));
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
}

class BranchTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(OneAndTwoRanks, BranchTest, ::testing::Values(1, 2));

TEST_P(BranchTest, EqualsARunOfItsOwnFromThatCheckpointBitForBit) {
  const TemporaryDirectory folder, own;
  TrainParent(folder, GetParam());
  // The run itself, resumed with the other end.
  std::filesystem::copy(folder.path() + "/runs", own.path() + "/runs",
                        std::filesystem::copy_options::recursive);
  TestGang::Options resumed =
      JobOf(own, GetParam(), "longrun00000", {{"schedule", Schedule(120, 30)}});
  resumed.attempt = 2;
  TestGang whole(resumed);
  const auto want = whole.Run();
  ASSERT_EQ(want[0].exit_code, 0) << want[0].error;

  TestGang branch(JobOf(folder, GetParam(), "branch000000",
                        {{"schedule", Schedule(120, 30)}, {"from", kFrom}}));
  const auto results = branch.Run();
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  EXPECT_EQ(branch.samples(), whole.samples()) << "the place in the data goes on";
  EXPECT_THAT(branch.samples(), SizeIs(60));
  EXPECT_EQ(ReadCheckpoint(folder.path(), results[0].observed.checkpoint),
            ReadCheckpoint(own.path(), want[0].observed.checkpoint))
      << "parameters, momentum and second moment";
  EXPECT_EQ(results[0].observed.version->digest, want[0].observed.version->digest);

  const auto steps = RecordsOf<link::StepRecord>(results[0]);
  ASSERT_THAT(steps, SizeIs(60));
  EXPECT_EQ(steps.front().step, 61);
  EXPECT_EQ(steps.front().images, 61 * 64);
  const auto saved = RecordsOf<link::CheckpointInfo>(results[0]);
  ASSERT_THAT(saved, SizeIs(2));
  for (const link::CheckpointInfo& checkpoint : saved) EXPECT_EQ(checkpoint.parent, kParent60);
  EXPECT_THAT(RecordsOf<link::Event>(results[0]), IsEmpty()) << "bit-exact, so nothing to say";
}

TEST_P(BranchTest, TheLearningRateIsContinuousAndStepsAreThoseOfTheParentUntilTheCooldown) {
  const TemporaryDirectory folder;
  const auto parent =
      RunGang(JobOf(folder, GetParam(), "longrun00000",
                    {{"schedule", Schedule(120, 0)},
                     {"checkpoint", "{dir: runs, every: 30 steps, keep: {last: 9}}"}}));
  ASSERT_EQ(parent[0].exit_code, 0) << parent[0].error;
  const auto results = RunGang(JobOf(folder, GetParam(), "branch000000",
                                     {{"schedule", Schedule(100, 20)}, {"from", kFrom}}));
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  const auto long_run = RecordsOf<link::StepRecord>(parent[0]);
  const auto branch = RecordsOf<link::StepRecord>(results[0]);
  ASSERT_THAT(long_run, SizeIs(120));
  ASSERT_THAT(branch, SizeIs(40));
  for (int i = 0; i < 21;
       ++i) {  // step 81 has count 80: the first with less than the whole factor follows
    const link::StepRecord &is = branch[i], &want = long_run[60 + i];
    EXPECT_EQ(is.step, want.step);
    EXPECT_EQ(is.learning_rate, want.learning_rate) << is.step;
    EXPECT_EQ(is.loss, want.loss) << is.step;
    EXPECT_EQ(is.gradient_norm, want.gradient_norm) << is.step;
  }
  EXPECT_LT(branch[21].learning_rate, long_run[81].learning_rate);
  EXPECT_LT(branch.back().learning_rate, 0.1 * long_run[99].learning_rate);
}

// What the schedule alone says, at any point before a cooldown begins.
TEST(BranchScheduleTest, TheFactorOfRsqrtDoesNotDependOnTheEnd) {
  for (const int64_t step : {int64_t{12000}, int64_t{100000}, int64_t{999999}}) {
    const ScheduleConfig long_run{ScheduleKind::kRsqrt, 10000, 10000, 0, 4000000, 0};
    const ScheduleConfig branch{ScheduleKind::kRsqrt, 10000, 10000, 50000, step + 50000, 0};
    EXPECT_EQ(ScheduleFactor(branch, step), ScheduleFactor(long_run, step));
    EXPECT_NEAR(ScheduleFactor(branch, step + 1) / ScheduleFactor(branch, step), 1, 1e-4);
  }
}

TEST(BranchRefusalTest, WhatDoesNotFitTheParentIsAConfigurationErrorThatNamesBothValues) {
  const TemporaryDirectory folder;
  TrainParent(folder, 1);
  const std::string model =
      "{custom: {patch: 7, width: 64, depth: 2, heads: 2, mlp_width: 64}, image_size: 28, "
      "channels: "
      "1, pool: map, classes: 10, loss: sigmoid, head_bias: -2.2}";
  struct Case {
    std::string key, value, error;
  };
  for (const Case& c :
       {Case{"model", model, "from: model: width is 64, the checkpoint's run has 32"},
        Case{"optimizer", "{name: sgd, lr: 1e-3}",
             "from: optimizer.name is sgd, the checkpoint's run has adafactor"},
        Case{"batch", "{global: 32}", "from: batch.global is 32, the checkpoint's run has 64"},
        Case{"seed", "2", "from: seed is 2, the checkpoint's run has 1"},
        Case{"data",
             "{train: {format: synthetic, synthetic_images: 2048}, preprocess: "
             "'flip_lr|value_range(-1,1)'}",
             "from: images in data.train is 2048, the checkpoint's run has 1024"},
        Case{"precision", "bf16", "bf16 is wanted, but the run was begun in f32"},
        Case{"schedule", "{total: 3 epochs}",
             "from: schedule.total is 48 steps, wanted more than the 60"},
        Case{"from", "runs/longrun00000/a0001.g0001.step_000000055", "does not exist below"},
        Case{"from", "longrun00000", "wanted \"<dir>/<job id>/<checkpoint name>\""},
        Case{"from", absl::StrCat("runs/branch000000/", kName60), "of this very job"}}) {
    std::map<std::string, std::string> job = {{"schedule", Schedule(120, 0)}, {"from", kFrom}};
    job[c.key] = c.value;
    const auto results = RunGang(JobOf(folder, 1, "branch000000", job));
    EXPECT_EQ(results[0].exit_code, 78) << c.key << ": " << results[0].error;
    EXPECT_THAT(results[0].error, HasSubstr(c.error)) << c.key;
  }
}

TEST(BranchRefusalTest, ADamagedParentIsNamedAndStaysWhereItIs) {
  const TemporaryDirectory folder;
  TrainParent(folder, 1);
  const std::string part =
      absl::StrCat(folder.path(), "/", kFrom, "/part-00000-of-00001.safetensors");
  std::fstream file(part, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-5, std::ios::end);
  file.put('\x55');
  file.close();
  const auto results =
      RunGang(JobOf(folder, 1, "branch000000", {{"schedule", Schedule(120, 0)}, {"from", kFrom}}));
  EXPECT_EQ(results[0].exit_code, 78);
  EXPECT_THAT(results[0].error, HasSubstr("from: checkpoint longrun00000/a0001"));
  EXPECT_THAT(PosixFileSystem().Stat(absl::StrCat(folder.path(), "/", kFrom)), IsOk());
}

TEST(BranchPrecisionTest, AutoIsThatOfTheParent) {
  const TemporaryDirectory folder;
  TrainParent(folder, 1);
  const auto results =
      RunGang(JobOf(folder, 1, "branch000000",
                    {{"schedule", Schedule(61, 0)}, {"from", kFrom}, {"precision", "auto"}}));
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  EXPECT_EQ(results[0].observed.numerics->precision, link::Precision::kF32);
}

// The rules of the job file know the spelling of names without the code that writes them.
TEST(BranchNameTest, EveryNameThatACheckpointCanHaveIsUnderstood) {
  for (const CheckpointName& name :
       {CheckpointName{0, 0, 0, false}, CheckpointName{1, 1, 60, false},
        CheckpointName{9999, 9999, 999999999, false}, CheckpointName{12345, 67890, 60, true},
        CheckpointName{1, 2, 123456789012, false}}) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointRef ref, ParseCheckpointRef(absl::StrCat(
                                                               "runs/job000000000/", name.Text())));
    EXPECT_EQ(ref.step, name.step);
    EXPECT_EQ(*CheckpointName::Parse(ref.name), name);
  }
}

// ---- vitscale-train -----------------------------------------------------------

class BranchProgramTest : public ::testing::TestWithParam<int> {
 protected:
  std::string Path(const std::string& name) const {
    return absl::StrCat(folder_.path(), "/", name);
  }
  // Exit codes by rank.
  std::vector<int> Train(const std::string& root, const std::string& name,
                         std::vector<std::string> more, const std::string& faults = "",
                         int faulty = 0) {
    std::ofstream(Path("job.yaml")) << TinyJob({{"checkpoint", "{dir: runs, every: 30 steps}"}});
    std::filesystem::remove(root + "/steps.csv");  // what this start does, alone
    std::vector<std::unique_ptr<ChildProcess>> ranks;
    for (int rank = 0; rank < GetParam(); ++rank) {
      std::vector<std::string> arguments = {VITSCALE_TRAIN,
                                            Path("job.yaml"),
                                            "--set=name=" + name,
                                            "--checkpoint-root=" + root,
                                            "--data-root=" + root,
                                            absl::StrCat("--rank=", rank),
                                            absl::StrCat("--world-size=", GetParam()),
                                            absl::StrCat("--rendezvous=", root, "/rendezvous"),
                                            "--threads=1"};
      if (rank == 0) arguments.push_back(absl::StrCat("--steps-csv=", root, "/steps.csv"));
      if (rank == faulty && !faults.empty()) arguments.push_back("--faults=" + faults);
      arguments.insert(arguments.end(), more.begin(), more.end());
      ranks.push_back(std::make_unique<ChildProcess>(arguments, root + "/log"));
    }
    std::vector<int> codes;
    for (auto& rank : ranks) codes.push_back(rank->Wait());
    return codes;
  }
  std::vector<int> Good() const { return std::vector<int>(GetParam(), 0); }
  std::string Newest(const std::string& root, const std::string& name) {
    const auto store =
        CheckpointStore::Open(PosixFileSystem(), root + "/runs", StandaloneJobId(name));
    const auto usable = store->Usable();
    return usable.ok() && !usable->empty() ? usable->front().id : "";
  }
  std::vector<std::string> FirstColumn(const std::string& csv) {
    std::vector<std::string> cells;
    for (absl::string_view line : absl::StrSplit(ReadText(csv), '\n', absl::SkipEmpty())) {
      cells.emplace_back(line.substr(0, line.find(',')));
    }
    return cells;
  }

  const TemporaryDirectory folder_;
};
INSTANTIATE_TEST_SUITE_P(OneAndTwoRanks, BranchProgramTest, ::testing::Values(1, 2));

TEST_P(BranchProgramTest, SixtyStepsOfABranchEqualThirtyAndAKillAndThirtyBitForBit) {
  const std::string root = folder_.path();
  const std::vector<std::string> parent_end = {
      "--set=schedule={warmup: 10 steps, timescale: 40 steps, total: 60 steps}"};
  ASSERT_EQ(Train(root, "long", parent_end), Good()) << ReadText(root + "/log");
  const std::string parent = Newest(root, "long");
  const std::vector<std::string> branch = {absl::StrCat("--set=from=runs/", parent),
                                           "--set=schedule={warmup: 10 steps, timescale: 40 steps, "
                                           "cooldown: 30 steps, total: 120 steps}"};
  ASSERT_EQ(Train(root, "whole", branch), Good()) << ReadText(root + "/log");

  // Before its first checkpoint it begins with the parent again …
  EXPECT_NE(Train(root, "cut", branch, "kill@gate,step=75", GetParam() - 1), Good());
  EXPECT_EQ(Newest(root, "cut"), "");
  EXPECT_NE(Train(root, "cut", branch, "kill@after_manifest,step=90"), Good());
  EXPECT_EQ(FirstColumn(root + "/steps.csv")[1], "61");
  EXPECT_THAT(Newest(root, "cut"), HasSubstr("step_000000090"));
  // … after it, with its own, and the parent may be gone.
  std::filesystem::rename(absl::StrCat(root, "/runs/", StandaloneJobId("long")), Path("gone"));
  ASSERT_EQ(Train(root, "cut", branch), Good()) << ReadText(root + "/log");
  EXPECT_EQ(FirstColumn(root + "/steps.csv")[1], "91");
  EXPECT_EQ(ReadCheckpoint(root, Newest(root, "cut")), ReadCheckpoint(root, Newest(root, "whole")));

  const auto store =
      CheckpointStore::Open(PosixFileSystem(), root + "/runs", StandaloneJobId("cut"));
  const auto usable = *store->Usable();
  for (const CheckpointEntry& entry : usable) EXPECT_EQ(entry.manifest.parent, parent);
}

}  // namespace
}  // namespace vitscale
