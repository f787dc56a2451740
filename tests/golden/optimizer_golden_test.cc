// Our optimizers against optax (optimizer.py), step by step from given gradients: at most 4 ulp per
// f32 value, and a momentum that differs from the truth's by one bf16 ulp only where the truth is a
// tie.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden.h"
#include "tests/golden/optimizer_run.h"
#include "tests/kernels/kernels_test_util.h"
#include "worker/model/param_table.h"
#include "worker/plan/schedule.h"

namespace vitscale::golden {
namespace {

struct Case {
  const char* run;
  const char* rule;
  int zero_steps;
};
const Case kSmallCases[] = {{"small_adafactor", "adafactor", 0},
                            {"zero_head", "adafactor", 2},
                            {"small_adamw", "adamw", 0},
                            {"small_sgd", "sgd", 0}};

void RunAll(const Case& c, const std::string& instruction_set) {
  ErrorTable table;
  OptimizerRun run(c.run, c.rule, c.zero_steps, instruction_set);
  for (int64_t k = 0; k < run.steps() && !testing::Test::HasFailure(); ++k) run.Step(k, table);
}

class OptimizerGoldenTest : public testing::TestWithParam<std::tuple<cpu::Isa, Case>> {};
INSTANTIATE_TEST_SUITE_P(EveryVariant, OptimizerGoldenTest,
                         testing::Combine(testing::ValuesIn(AllInstructionSets()),
                                          testing::ValuesIn(kSmallCases)),
                         [](const auto& info) {
                           return absl::StrCat(cpu::IsaName(std::get<0>(info.param)), "_",
                                               std::get<1>(info.param).run);
                         });

TEST_P(OptimizerGoldenTest, TwentyStepsStayWithinFourUlpOfOptax) {
  RunAll(std::get<1>(GetParam()), cpu::IsaName(std::get<0>(GetParam())));
}

TEST(OptimizerGoldenTest, TwentyStepsOnTensorsOfTheSizeOfG14StayWithinFourUlpOfOptax) {
  RunAll({"giant_adafactor", "adafactor", 0}, "");
}

// optimizer_decay.py asked the compiler; the ops do what its jitted programs do.
TEST(MomentumDecayGoldenTest, XlaMultipliesByTheRoundedConstantAndKeepsTheProduct) {
  const GoldenFile file("optimizer_decay");
  for (const char* transform : {"ema", "trace", "adam"}) {
    EXPECT_EQ(file.Values(absl::StrCat(transform, ".jit")), (std::vector<double>{0.8984375, 0}));
    EXPECT_EQ(file.Values(absl::StrCat(transform, ".eager")), (std::vector<double>{0.8984375, 1}));
  }
}

TEST(FactoringGoldenTest, TheParamTableFactorsTheAxesThatOptaxChooses) {
  const GoldenFile file("optimizer");
  int compared = 0;
  for (const std::string& name : file.Names()) {
    const size_t end = name.rfind(".shape");
    if (end == std::string::npos || name.find("adafactor") == std::string::npos) continue;
    Shape shape;
    for (const int64_t dim : file.Integers(name)) shape.push_back(dim);
    const Factoring ours = FactoringOf(shape);
    EXPECT_EQ((std::vector<int64_t>{ours.axis_d0, ours.axis_d1}),
              file.Integers(name.substr(0, end) + ".axes"))
        << name;
    ++compared;
  }
  EXPECT_GE(compared, 27);
}

TEST(ScheduleGoldenTest, TheFactorsOfTheRunAreTheSchedulesOwn) {
  const ScheduleConfig config{ScheduleKind::kRsqrt, 5, 10, 5, 20, 0};
  const std::vector<double> want = GoldenFile("optimizer").Values("giant_adafactor.schedule");
  for (size_t k = 0; k < want.size(); ++k) {
    EXPECT_NEAR(ScheduleFactor(config, k), want[k], 1e-15) << k;
  }
  EXPECT_EQ(want[0], 0);
}

}  // namespace
}  // namespace vitscale::golden
