#include <set>

#include "tests/status_matchers.h"
#include "worker/bench/ceiling.h"
#include "worker/bench/op_bench.h"
#include "worker/bench/step_bench.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;

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

TEST(StepBenchTest, ReportsPhasesThatMakeUpTheStep) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const nlohmann::json report, BenchStep(Tiny()));
  EXPECT_EQ(report["model"], "mu/16");
  EXPECT_GT(report["step_seconds"], 0);
  EXPECT_GT(report["images_per_second"], 0);
  for (const char* phase : {"forward", "backward", "optimizer", "prepare"}) {
    EXPECT_TRUE(report["phases"].contains(phase)) << phase;
  }
  EXPECT_FALSE(report.contains("ceiling_share"));
}

TEST(OpBenchTest, SharesAddUpToOneAndMatmulsHaveARate) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const nlohmann::json report, BenchOps(Tiny()));
  for (const char* list : {"groups", "ops"}) {
    double sum = 0;
    for (const auto& row : report[list]) sum += row["share"].get<double>();
    EXPECT_NEAR(sum, 1, 1e-9) << list;
  }
  std::set<std::string> names;
  for (const auto& row : report["ops"]) {
    names.insert(row["name"]);
    if (row["name"].get<std::string>().rfind("Linear", 0) == 0) {
      EXPECT_GT(row["gflops"], 0);
    }
  }
  EXPECT_EQ(names.count("Linear+Gelu 16x32x128"), 1u);
  EXPECT_EQ(names.count("LinearGradWeight 16x32x128"), 1u);
  EXPECT_EQ(names.count("AdafactorApply"), 1u);
}

TEST(BenchTest, RefusesAModelThatDoesNotValidate) {
  BenchOptions unknown = Tiny(), custom = Tiny();
  unknown.variant = "Q/16";
  EXPECT_THAT(BenchStep(unknown), StatusIs(absl::StatusCode::kNotFound, HasSubstr("Q/16")));
  custom.variant = "";
  EXPECT_THAT(BenchStep(custom),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no model: want --variant")));
}

TEST(CeilingTest, TellsTheInstructionItMeasured) {
  const Ceiling ceiling = MeasureCeiling(Precision::kF32, 1, 0.001);
  EXPECT_GT(ceiling.flops_per_second, 0);
  EXPECT_THAT(ceiling.instruction, HasSubstr("fma"));
}

}  // namespace
}  // namespace vitscale
