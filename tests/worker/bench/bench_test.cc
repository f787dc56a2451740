#include <unistd.h>

#include <csignal>
#include <set>
#include <sstream>

#include "kernels/base/files.h"
#include "tests/status_matchers.h"
#include "tests/worker/data/idx_test_util.h"
#include "worker/bench/allreduce_bench.h"
#include "worker/bench/ceiling.h"
#include "worker/bench/checkpoint_bench.h"
#include "worker/bench/data_bench.h"
#include "worker/bench/op_bench.h"
#include "worker/bench/optimizer_floor.h"
#include "worker/bench/peak.h"
#include "worker/bench/probe.h"
#include "worker/bench/processes.h"
#include "worker/bench/profile.h"
#include "worker/bench/step_bench.h"

namespace vitscale {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

BenchOptions Tiny() {
  BenchOptions options;
  options.variant = "mu/16";
  options.image_size = 32;
  options.classes = 10;
  options.batch = 4;
  options.threads = 1;
  options.steps = 2;
  options.precision = "f32";
  options.ceiling = false;
  return options;
}

TEST(PeakTest, CardsAreKnownByTheWholeWord) {
  const auto flops = [](const char* card, bool bf16) {
    return PeakOfCard(card, bf16).value().flops_per_second;
  };
  EXPECT_EQ(flops("NVIDIA H100 80GB HBM3", true), 989e12);
  EXPECT_EQ(flops("NVIDIA H100 PCIe", true), 756e12);
  EXPECT_EQ(flops("NVIDIA H200", false), 67e12);
  EXPECT_EQ(flops("NVIDIA A100-SXM4-40GB", true), 312e12);
  EXPECT_EQ(flops("NVIDIA A10", true), 125e12);
  EXPECT_FALSE(PeakOfCard("NVIDIA A1000", true).has_value());
  EXPECT_FALSE(PeakOfCard("Somebody's", true).has_value());
}

TEST(PeakTest, GivenPeakReplacesTheMeasuredOne) {
  BenchOptions options = Tiny();
  options.ceiling = true;
  options.roofline = false;
  options.peak_tflops = 2;
  options.peak_gigabytes_per_second = 3;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchStep(options));
  EXPECT_EQ(report["ceiling_flops_per_second"], 2e12);
  EXPECT_NEAR(report["ceiling_share"].get<double>(),
              report["flops_per_second"].get<double>() / 2e12, 1e-12);
}

double Sum(const json& phases) {
  double sum = 0;
  for (const auto& [name, seconds] : phases.items()) sum += seconds.get<double>();
  return sum;
}

TEST(StepBenchTest, ReportsPhasesThatMakeUpTheStep) {
  BenchOptions options = Tiny();
  options.steps = 1;  // of more, medians of phases need not add up to the median of steps
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchStep(options));
  EXPECT_EQ(report["model"], "mu/16");
  for (const char* phase : {"forward", "backward", "optimizer"}) {
    EXPECT_TRUE(report["phases"].contains(phase)) << phase;
  }
  const double step = report["step_seconds"];
  EXPECT_GT(step, 0);
  EXPECT_GT(Sum(report["phases"]), 0);
  EXPECT_LE(Sum(report["phases"]), step);
  EXPECT_FALSE(report.contains("ceiling_share"));
  EXPECT_FALSE(report.contains("roofline"));
}

TEST(StepBenchTest, RatesFollowFromSecondsImagesAndFlops) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchStep(Tiny()));
  const double step = report["step_seconds"], images = report["images_per_second"];
  EXPECT_NEAR(images * step, 4, 1e-9);
  EXPECT_NEAR(report["flops_per_second"].get<double>() / images,
              1e9 * report["train_gflop_per_image"].get<double>(), 1);
  EXPECT_GT(report["peak_rss_bytes"], 1 << 20);
}

TEST(OpBenchTest, SharesAddUpToOneAndMatmulsHaveARate) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchOps(Tiny()));
  for (const char* list : {"groups", "ops"}) {
    double sum = 0;
    for (const auto& row : report[list]) sum += row["share"].get<double>();
    EXPECT_NEAR(sum, 1, 1e-9) << list;
  }
  std::set<std::string> names;
  for (const auto& row : report["ops"]) {
    names.insert(row["name"]);
    if (row["name"].get<std::string>().rfind("Linear", 0) == 0) {
      EXPECT_GT(row["flops_per_second"], 0);
    }
  }
  EXPECT_EQ(names.count("Linear+Gelu 16x32x128"), 1u);
  EXPECT_EQ(names.count("LinearGradWeight 16x32x128"), 1u);
  EXPECT_EQ(names.count("AdafactorApply"), 1u);
}

// Whatever way a step is cut, it has the same arithmetic, and kinds share out the groups' seconds.
TEST(ProfileTest, KindsHoldAllSecondsOfTheGroupsAndAllFlops) {
  const BenchOptions options = Tiny();
  VITSCALE_ASSERT_OK_AND_ASSIGN(BenchReplica replica, MakeBenchReplica(options));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const StepProfile profile,
                                ProfileStep(replica, OptimizerConfigOf(options), 1));
  Tally groups, ops, kinds;
  const auto add = [](const std::vector<Tally>& list, Tally& sum) {
    for (const Tally& tally : list) {
      sum.seconds += tally.seconds;
      sum.cost.flops += tally.cost.flops;
    }
  };
  add(profile.groups, groups), add(profile.ops, ops), add(profile.kinds, kinds);
  EXPECT_NEAR(kinds.seconds / groups.seconds, 1, 1e-9);
  EXPECT_EQ(kinds.cost.flops, groups.cost.flops);
  EXPECT_EQ(ops.cost.flops, groups.cost.flops);
}

TEST(RooflineTest, TheLongerOfArithmeticAndTrafficIsTheCeiling) {
  const std::vector<Tally> kinds = {{"Multiply", 1, 4.0, {.flops = 20, .bytes = 10}},
                                    {"Copy", 1, 1.0, {.flops = 0, .bytes = 5}}};
  const json list = RooflineJson(kinds, /*ceiling_flops_per_second=*/10,
                                 /*ceiling_bytes_per_second=*/10);
  EXPECT_EQ(list[0]["bound"], "compute");
  EXPECT_DOUBLE_EQ(list[0]["ceiling_share"], 2.0 / 4.0);
  EXPECT_DOUBLE_EQ(list[0]["share"], 0.8);
  EXPECT_EQ(list[1]["bound"], "memory");
  EXPECT_DOUBLE_EQ(list[1]["ceiling_share"], 0.5);
}

TEST(ProcessesTest, AnswersComeInOrderAndAnErrorNamesItsRank) {
  const auto square = [](int i) -> absl::StatusOr<json> { return i * i; };
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::vector<json> answers, RunInProcesses(3, square));
  EXPECT_EQ(answers, (std::vector<json>{0, 1, 4}));
  const auto refuses = [](int i) -> absl::StatusOr<json> {
    if (i == 1) return absl::DataLossError("no");
    return 0;
  };
  EXPECT_THAT(RunInProcesses(2, refuses), StatusIs(absl::StatusCode::kDataLoss, "rank 1: no"));
}

TEST(ProcessesTest, TheFirstThatFailsEndsThoseThatWouldWaitForIt) {
  const auto waits = [](int i) -> absl::StatusOr<json> {
    if (i == 1) return absl::DataLossError("no");
    while (true) pause();
  };
  EXPECT_THAT(RunInProcesses(3, waits), StatusIs(absl::StatusCode::kDataLoss, "rank 1: no"));
}

TEST(ProcessesTest, OneThatDiesIsUnavailable) {
  const auto dies = [](int i) -> absl::StatusOr<json> {
    raise(SIGKILL);
    return 0;
  };
  EXPECT_THAT(RunInProcesses(1, dies),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("rank 0 ended without an answer, signal 9")));
}

class AllReduceBenchTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Transports, AllReduceBenchTest, testing::Values("gloo", "shared_memory"));

TEST_P(AllReduceBenchTest, ThreeRanksSumBytesInBuckets) {
  AllReduceOptions options;
  options.transport = GetParam();
  options.bytes = 10'000;
  options.bucket_bytes = 4'096;
  options.ranks = 3;
  options.run.steps = 2;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchAllReduce(options));
  EXPECT_EQ(report["ranks"], 3);
  EXPECT_EQ(report["bytes"], 10'000);
  EXPECT_EQ(report["buckets"], 3);
  const double seconds = report["seconds"];
  EXPECT_NEAR(report["bytes_per_second"].get<double>() * seconds, 10'000, 1e-6);
  const double ring = report["bus_bytes_per_second"];
  EXPECT_NEAR(ring * seconds, 10'000 * 4.0 / 3, 1e-6);
  if (options.transport == "gloo") {
    EXPECT_EQ(report["wire_bytes_per_second"], ring);
  }
  EXPECT_GT(report["phases"]["record_alone"], 0);
}

TEST(AllReduceOptionsTest, TakesTheGradientsOfAModel) {
  AllReduceOptions options;
  options.run = Tiny();
  VITSCALE_ASSERT_OK_AND_ASSIGN(const PlanRequest request, RequestOf(options.run));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Plan plan, MakePlan(request));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchAllReduce(options));
  EXPECT_EQ(report["bytes"], plan.gradient_bytes);
}

// Whatever this machine has: it shows no cards, or there is no plugin.
TEST(AllReduceOptionsTest, NcclWithoutCardsIsOneLine) {
  setenv("CUDA_VISIBLE_DEVICES", "", /*replace=*/1);
  AllReduceOptions options;
  options.bytes = 8;
  options.transport = "nccl";
  EXPECT_THAT(BenchAllReduce(options),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(StartsWith("rank "), AnyOf(HasSubstr("cuda"), HasSubstr("CUDA")),
                             Not(HasSubstr("\n")))));
  unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST(AllReduceOptionsTest, WantsBytesOrAModel) {
  EXPECT_THAT(BenchAllReduce({}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--bytes, or a model")));
}

TEST(DataBenchTest, MakesJpegFilesAndTimesEachNumberOfThreads) {
  DataOptions options;
  options.jpegs = 6;
  options.jpeg_width = 40;
  options.jpeg_height = 30;
  options.image_size = 16;
  options.batch = 4;
  options.batches = 2;
  options.threads = {1, 3};
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchData(options));
  EXPECT_THAT(report["data"].get<std::string>(), HasSubstr("6 images, 2 classes"));
  EXPECT_EQ(report["image"], "16x16x3");
  EXPECT_EQ(report["preprocess"], "inception_crop(16)|flip_lr");
  EXPECT_EQ(report["by_threads"].size(), 2u);
  EXPECT_EQ(report["by_threads"][1]["threads"], 3);
  EXPECT_GE(report["images_per_second"], report["by_threads"][0]["images_per_second"]);
  EXPECT_GT(report["phases"]["read_and_decode"], 0);
  EXPECT_GT(report["decode_share"], 0);
  EXPECT_LE(report["decode_share"], 1);
}

TEST(DataBenchTest, ReadsAnIdxSetAsItIs) {
  TemporaryDirectory directory;
  DataOptions options;
  options.idx_images = directory.path() + "/images";
  options.idx_labels = directory.path() + "/labels";
  WriteBytes(PosixFileSystem(), options.idx_images,
             IdxHeader({3, 4, 5}) + std::string(3 * 4 * 5, '\7'));
  WriteBytes(PosixFileSystem(), options.idx_labels, IdxHeader({3}) + std::string(3, '\1'));
  options.channels = 1;
  options.batches = 2;
  options.threads = {1};
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchData(options));
  EXPECT_EQ(report["image"], "4x5x1");
  EXPECT_EQ(report["preprocess"], "");
  EXPECT_EQ(report["batch"], 3);  // the set has no more
  EXPECT_EQ(report["decode_share"], 0);
  EXPECT_GT(report["phases"]["read"], 0);
}

TEST(DataBenchTest, SaysWhatIsWrongWithItsInput) {
  DataOptions one, nowhere, op;
  one.idx_images = "images.gz";
  EXPECT_THAT(BenchData(one),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--idx-labels")));
  nowhere.folder = "/no/such/folder";
  EXPECT_THAT(BenchData(nowhere), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such")));
  op.jpegs = 1;
  op.preprocess = "twist(3)";
  EXPECT_THAT(BenchData(op), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twist")));
}

TEST(CheckpointBenchTest, WritesVerifiesAndRemovesTheState) {
  TemporaryDirectory directory;
  CheckpointOptions options;
  options.run = Tiny();
  options.directory = directory.path();
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchCheckpoint(options));
  for (const char* phase : {"snapshot", "write", "sync", "manifest", "verify"}) {
    EXPECT_GT(report["phases"][phase], 0) << phase;
  }
  EXPECT_EQ(report["stall_seconds"], report["phases"]["snapshot"]);
  // Master parameters in f32 and momentum in bf16, and something for second moment and header.
  EXPECT_GT(report["bytes"], 6 * report["parameters"].get<int64_t>());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto left, PosixFileSystem().List(directory.path()));
  EXPECT_TRUE(left.empty());
}

TEST(CheckpointBenchTest, NamesADirectoryThatCannotBe) {
  CheckpointOptions options;
  options.run = Tiny();
  options.directory = "/dev/null/there";
  const auto report = BenchCheckpoint(options);
  EXPECT_FALSE(report.ok());
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("--dir '/dev/null/there'"));
}

TEST(BenchTest, RefusesAModelThatDoesNotValidate) {
  BenchOptions unknown = Tiny(), custom = Tiny();
  unknown.variant = "Q/16";
  EXPECT_THAT(BenchStep(unknown), StatusIs(absl::StatusCode::kNotFound, HasSubstr("Q/16")));
  custom.variant = "";
  EXPECT_THAT(BenchStep(custom),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no model: want --variant")));
}

TEST(ProbeTest, WritesRatesThatThePlannerReads) {
  TemporaryDirectory directory;
  ProbeOptions options;
  options.samples = {{32, 2, 4, 8, 1, 2}};
  options.update_depth = 1;
  options.threads = 1;
  options.out = directory.path() + "/new/rates.txt";
  std::ostringstream progress;
  options.progress = &progress;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const json report, BenchProbe(options));
  EXPECT_EQ(report["out"], options.out);
  EXPECT_GE(report["spread_share"], 0);
  EXPECT_THAT(progress.str(), HasSubstr("1 of 8: bf16, width 32\n"));
  EXPECT_THAT(progress.str(), HasSubstr("8 of 8: f32, sgd\n"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const MachineRates rates, ReadRates(options.out));
  EXPECT_EQ(rates.threads, 1);
  EXPECT_GT(rates.memory_bytes_per_second, 0);
  EXPECT_GT(rates.wire_bytes_per_second, 0);
  for (const Precision precision : {Precision::kBf16, Precision::kF32}) {
    EXPECT_TRUE(rates.Knows(precision));
    for (const char* op : {"Linear", "SelfAttentionGrad", "LayerNormGrad", "AdamWApply"}) {
      EXPECT_THAT(rates.ToText(),
                  HasSubstr(absl::StrCat("op ", PrecisionName(precision), " ", op)));
    }
  }
}

TEST(OptimizerFloorTest, CountsGradientsTwiceAndTheStateInAndOut) {
  BenchOptions options = Tiny();
  options.precision = "f32";
  VITSCALE_ASSERT_OK_AND_ASSIGN(const BenchReplica replica, MakeBenchReplica(options));
  const Plan& plan = replica.plan;
  const double n = static_cast<double>(plan.layout.table.parameter_count());
  const double moments = static_cast<double>(plan.layout.table.second_moment_count());
  // 4 + 4 for gradients, 4 + 4 for parameters, 2 + 2 for momentum; packed weights on top.
  EXPECT_DOUBLE_EQ(OptimizerFloorBytes(plan, OptimizerConfigOf(options)),
                   20 * n + 8 * moments + static_cast<double>(plan.compute_weight_bytes));
  std::vector<Tally> kinds = {
      {"GradStats", 1, 1.0, {}}, {"Linear", 1, 5.0, {}}, {"PrepareWeights", 1, 2.0, {}}};
  const json report = OptimizerReport(plan, OptimizerConfigOf(options), kinds, 1e3);
  EXPECT_EQ(report["optimizer_seconds"], 3);
  EXPECT_GT(report["optimizer_floor_share"], 0);
}

TEST(CeilingTest, TellsTheInstructionItMeasured) {
  const Ceiling ceiling = MeasureCeiling(Precision::kF32, 1, 0.001);
  EXPECT_GT(ceiling.flops_per_second, 0);
  EXPECT_THAT(ceiling.instruction, HasSubstr("fma"));
}

TEST(CeilingTest, MovesBytesWithMoreThreadsThanTheArraysHaveLines) {
  EXPECT_GT(MeasureTriadBytesPerSecond(3, 4096), 0);
}

}  // namespace
}  // namespace vitscale
