// Whole trainers whose device is the CUDA plugin, made for the host: initialisation, steps,
// evaluations, snapshots, checkpoints and resumes reach a state that the host cannot address.

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr int kSteps = 8;
constexpr int64_t kParameterBytes = 4 * 14 * 14 * 32;  // of SmallJob's first layer alone

std::map<std::string, std::string> SmallJob(int steps, const std::string& precision = "f32") {
  return {{"model",
           "{custom: {patch: 14, width: 32, depth: 1, heads: 2, mlp_width: 64}, image_size: 28, "
           "channels: 1, pool: map, classes: 10, loss: sigmoid, head_bias: -2.2}"},
          {"optimizer", "{name: adafactor, lr: 3e-2}"},
          {"schedule", absl::StrCat("{name: rsqrt, warmup: 1 steps, timescale: 1000 steps, total: ",
                                    steps, " steps}")},
          {"batch", "{global: 32, micro: 16}"},
          {"precision", precision},
          {"checkpoint", "{dir: runs, every: 3 steps}"}};
}

TestGang::Options On(const std::string& device, const TemporaryDirectory& folder,
                     std::map<std::string, std::string> job) {
  TestGang::Options options;
  options.job = TinyJob(job);
  options.device = device;
  options.checkpoint_root = folder.path();
  return options;
}

// The same run goes on, later.
TestGang::Result Resume(TestGang::Options options, const std::string& device,
                        std::map<std::string, std::string> job) {
  options.job = TinyJob(job);
  options.device = device;
  options.faults.clear();
  options.orphan_after_break = false;
  ++options.attempt;
  return RunGang(options)[0];
}

std::vector<double> LossesOf(const TestGang::Result& result) {
  std::vector<double> losses;
  for (const auto& step : RecordsOf<link::StepRecord>(result)) losses.push_back(step.loss);
  return losses;
}

// f32 on both sides, so only the order of sums differs: 2^-24 a rounding, of which an optimizer
// that divides by its second moment makes more with every step.
TEST(TrainerOnCudaTest, ARunLearnsAndMeasuresWhatItDoesOnACpu) {
  auto job = SmallJob(kSteps);
  job["evals"] =
      "[{name: val, data: {format: synthetic, synthetic_images: 40}, every: 4 steps}, "
      "{name: fewshot, kind: fewshot, shots: [2], seeds: 1, support: {format: synthetic, "
      "synthetic_images: 64}, data: {format: synthetic, synthetic_images: 40}}]";
  const TemporaryDirectory a, b;
  const auto cpu = RunGang(On("", a, job))[0], cuda = RunGang(On("cuda0", b, job))[0];
  ASSERT_EQ(cpu.exit_code, 0) << cpu.error;
  ASSERT_EQ(cuda.exit_code, 0) << cuda.error;
  EXPECT_EQ(cuda.observed.numerics->backend, "cuda");
  EXPECT_EQ(cuda.observed.numerics->instruction_set, "sm_90");
  EXPECT_THAT(cuda.observed.numerics->choices, SizeIs(16));
  EXPECT_THAT(cpu.observed.numerics->choices, IsEmpty()) << "nothing is measured there";
  const auto want = LossesOf(cpu), losses = LossesOf(cuda);
  ASSERT_THAT(losses, SizeIs(kSteps));
  ASSERT_THAT(want, SizeIs(kSteps));
  EXPECT_LT(losses.back(), 0.9 * losses.front()) << "it learns";
  EXPECT_NEAR(losses[0] / want[0], 1, 1e-6);
  for (int i = 0; i < kSteps; ++i) EXPECT_NEAR(losses[i] / want[i], 1, 1e-3) << "step " << i + 1;
  const auto evals_cpu = RecordsOf<link::EvalRecord>(cpu),
             evals = RecordsOf<link::EvalRecord>(cuda);
  ASSERT_THAT(evals, SizeIs(evals_cpu.size()));
  ASSERT_THAT(evals, Not(IsEmpty()));
  for (size_t i = 0; i < evals.size(); ++i) {
    EXPECT_EQ(evals[i].name, evals_cpu[i].name);
    EXPECT_EQ(evals[i].eval_images, 40);
    if (evals[i].name != "val") continue;
    EXPECT_NEAR(evals[i].values.at("loss") / evals_cpu[i].values.at("loss"), 1, 1e-3);
  }
}

TEST(TrainerOnCudaTest, AResumedRunEqualsTheUninterruptedOneBitForBit) {
  for (const std::string precision : {"f32", "bf16"}) {
    const TemporaryDirectory whole, cut;
    const auto want = RunGang(On("cuda0", whole, SmallJob(6, precision)))[0];
    ASSERT_EQ(want.exit_code, 0) << want.error;
    const auto options = On("cuda0", cut, SmallJob(3, precision));
    const auto first = RunGang(options)[0];
    ASSERT_EQ(first.exit_code, 0) << first.error;
    const auto second = Resume(options, "cuda0", SmallJob(6, precision));
    ASSERT_EQ(second.exit_code, 0) << second.error;
    EXPECT_EQ(RecordsOf<link::StepRecord>(second).front().step, 4);
    for (const auto& event : RecordsOf<link::Event>(second)) {
      EXPECT_THAT(event.message, Not(HasSubstr("not bit-exact")));
    }
    const auto state = ReadCheckpoint(cut.path(), second.observed.checkpoint);
    EXPECT_THAT(state, Not(IsEmpty()));
    EXPECT_EQ(state, ReadCheckpoint(whole.path(), want.observed.checkpoint)) << precision;
  }
}

// The loader compares digests: what the other backend computes of the state it has read is what the
// first one said of the state it had.
TEST(TrainerOnCudaTest, ACheckpointOfCudaGoesOnOnACpuAndTheOtherWayRound) {
  for (const auto& [from, to] : {std::pair{"cuda0", "cpu0"}, std::pair{"cpu0", "cuda0"}}) {
    const TemporaryDirectory folder, alone;
    const auto options = On(from, folder, SmallJob(3));
    const auto first = RunGang(options)[0];
    ASSERT_EQ(first.exit_code, 0) << first.error;
    const auto second = Resume(options, to, SmallJob(6));
    ASSERT_EQ(second.exit_code, 0) << second.error;
    const auto events = RecordsOf<link::Event>(second);
    ASSERT_THAT(events, Not(IsEmpty()));
    EXPECT_THAT(events[0].message,
                AllOf(HasSubstr("resumes, not bit-exact: "), HasSubstr("backend")));
    const auto losses = LossesOf(second);
    ASSERT_THAT(losses, SizeIs(3));
    const auto whole = LossesOf(RunGang(On("cpu0", alone, SmallJob(6)))[0]);
    for (int i = 0; i < 3; ++i) EXPECT_NEAR(losses[i] / whole[3 + i], 1, 1e-3) << from << " " << i;
  }
}

// Nothing is copied aside then: the file is written from the device, piece by piece.
TEST(TrainerOnCudaTest, AnOrphanSavesItsStateAndNoStepIsLost) {
  const TemporaryDirectory folder;
  TestGang::Options options = On("cuda0", folder, SmallJob(6));
  options.faults[0] = "fail_collective@step=5";
  options.orphan_after_break = true;
  const auto orphan = RunGang(options)[0];
  EXPECT_EQ(orphan.exit_code, 75) << orphan.error;
  EXPECT_EQ(orphan.observed.checkpoint, "job000000000/a0001.g0001.step_000000004.emergency");
  const auto resumed = Resume(options, "cpu0", SmallJob(6));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_EQ(RecordsOf<link::StepRecord>(resumed).front().step, 5);
}

TEST(TrainerOnCudaTest, ANonFiniteGradientIsSeenThereToo) {
  const TemporaryDirectory folder;
  TestGang::Options options = On("cuda0", folder, SmallJob(4));
  options.faults[0] = "nan@step=2";
  const auto result = RunGang(options)[0];
  EXPECT_EQ(result.exit_code, 81);
  EXPECT_THAT(result.error, HasSubstr("step 2"));
}

// Two cards, through the stand-in of NCCL: micro-batches are dealt, so both see the same samples as
// one alone; sums are of two ranks instead of two micro-batches, in the same order.
TEST(TrainerOnCudaTest, TwoCardsTrainAsOneDoesAndAResumeIsBitIdentical) {
  const TemporaryDirectory alone, whole, cut;
  TestGang one(On("cuda0", alone, SmallJob(6)));
  auto options = On("cuda", whole, SmallJob(6));
  options.ranks = 2;
  TestGang two(options);
  const auto single = one.Run(), pair = two.Run();
  ASSERT_EQ(single[0].exit_code, 0) << single[0].error;
  ASSERT_EQ(pair[0].exit_code, 0) << pair[0].error;
  ASSERT_EQ(pair[1].exit_code, 0) << pair[1].error;
  EXPECT_THAT(pair[0].observed.numerics->collective, StartsWith("nccl_"));
  EXPECT_THAT(single[0].metrics.collective_bytes_total, IsEmpty());
  EXPECT_THAT(pair[1].metrics.collective_bytes_total,
              ElementsAre(Pair(pair[0].observed.numerics->collective, Gt(6 * kParameterBytes))));
  EXPECT_EQ(one.samples(), two.samples());
  const auto want = LossesOf(single[0]), losses = LossesOf(pair[0]);
  ASSERT_THAT(losses, SizeIs(6));
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(losses[i] / want[i], 1, 1e-5) << "step " << i + 1;

  options.checkpoint_root = cut.path();
  options.job = TinyJob(SmallJob(3));
  ASSERT_EQ(RunGang(options)[0].exit_code, 0);
  const auto resumed = Resume(options, "cuda", SmallJob(6));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_EQ(ReadCheckpoint(cut.path(), resumed.observed.checkpoint),
            ReadCheckpoint(whole.path(), pair[0].observed.checkpoint));
}

TEST(TrainerOnCudaTest, ASumOfCardsThatFailsChangesNothingAndTheSurvivorsRecoverInPlace) {
  const TemporaryDirectory whole, broken;
  auto options = On("cuda", whole, SmallJob(6));
  options.ranks = 2;
  const auto want = RunGang(options)[0];
  ASSERT_EQ(want.exit_code, 0) << want.error;
  options.checkpoint_root = broken.path();
  options.faults[1] = "fail_collective@step=5,bucket=0";
  options.recoveries_max = 1;
  TestGang gang(options);
  const auto results = gang.Run();
  ASSERT_EQ(results[0].exit_code, 0) << results[0].error;
  ASSERT_EQ(results[1].exit_code, 0) << results[1].error;
  ASSERT_THAT(gang.broken_versions(), SizeIs(1));
  for (const link::StateVersion& version : gang.broken_versions()[0]) EXPECT_EQ(version.step, 4);
  EXPECT_EQ(ReadCheckpoint(broken.path(), results[0].observed.checkpoint),
            ReadCheckpoint(whole.path(), want.observed.checkpoint));
}

TEST(TrainerOnCudaTest, ADeviceThatIsMissingOrNotWantedIsOneLine) {
  const TemporaryDirectory folder;
  auto result = RunGang(On("cuda7", folder, SmallJob(4)))[0];
  EXPECT_EQ(result.exit_code, 83);
  EXPECT_THAT(result.error, AllOf(HasSubstr("no CUDA device: device is cuda:7, this machine has 2"),
                                  Not(HasSubstr("\n"))));
  auto job = SmallJob(4);
  job["resources"] = "{workers: {min: 1, max: 1}, device: cpu}";
  result = RunGang(On("cuda0", folder, job))[0];
  EXPECT_EQ(result.exit_code, 78);
  EXPECT_THAT(result.error, HasSubstr("cuda0, but the job wants resources.device: cpu"));
}

class TrainProgramTest : public ::testing::Test {
 protected:
  // Exit code of a run with these flags; its output stands in Log().
  int Train(const std::map<std::string, std::string>& job, std::vector<std::string> more) {
    std::ofstream(folder_.path() + "/job.yaml") << TinyJob(job);
    std::vector<std::string> arguments = {VITSCALE_TRAIN, folder_.path() + "/job.yaml",
                                          "--checkpoint-root=" + folder_.path(),
                                          "--data-root=" + folder_.path(), "--threads=1"};
    for (std::string& flag : more) arguments.push_back(std::move(flag));
    (void)PosixFileSystem().Remove(folder_.path() + "/log");
    return ChildProcess(arguments, folder_.path() + "/log").Wait();
  }
  std::string Log() const { return ReadText(folder_.path() + "/log"); }

  const TemporaryDirectory folder_;
};

TEST_F(TrainProgramTest, TrainsOnTheCardThatTheJobOrTheFlagSays) {
  auto job = SmallJob(2);
  ASSERT_EQ(Train(job, {"--device=cuda:0", "--job-id=flag"}), 0) << Log();
  EXPECT_THAT(Log(), HasSubstr("steps      2\n"));
  job["resources"] = "{device: cuda}";
  ASSERT_EQ(Train(job, {"--job-id=job"}), 0) << Log();
  EXPECT_EQ(Train(job, {"--device=cpu"}), 2);
  EXPECT_THAT(Log(), HasSubstr("--device is cpu, but the job wants resources.device: cuda\n"));
  EXPECT_EQ(Train(job, {"--device=gpu0"}), 2);
  EXPECT_THAT(Log(), HasSubstr("--device: was \"gpu0\", wanted cpu, cuda or cuda:<index>\n"));
}

}  // namespace
}  // namespace vitscale
