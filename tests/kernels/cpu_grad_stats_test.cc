// GradStats against the definition, and single facts of the update rules: clip, rounding, decay.

#include <cmath>
#include <vector>

#include "absl/strings/str_join.h"
#include "tests/kernels/optimizer_bench.h"

namespace vitscale {
namespace {

class GradStatsTest : public testing::TestWithParam<cpu::Isa> {};
INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, GradStatsTest,
                         testing::ValuesIn(AllInstructionSets()),
                         [](const auto& info) { return cpu::IsaName(info.param); });

// Segments longer than a tile's columns, with and without an inner axis, and blocks that end early.
TEST_P(GradStatsTest, SumsOfSquaresMatchTheDefinitionForLongAndShortSegments) {
  for (const Shape& shape : std::vector<Shape>{{257, 2049},
                                               {2050, 520},
                                               {3, 40, 5000},
                                               {70, 5, 67},
                                               {300, 290, 8},
                                               {2, 50, 60, 3},
                                               {33, 33}}) {
    SCOPED_TRACE(absl::StrJoin(shape, ", "));
    const std::vector<TensorState> state = {MakeTensor(shape, Rule::kAdafactor, 1)};
    const auto gradients = Gradients(state, 1.0, 2);
    StepValues step = ScalarsOf(Rule::kAdafactor, 0);
    StepRun run(state, gradients, Rule::kAdafactor, step, GetParam());
    const int d0 = state[0].factoring.axis_d0, d1 = state[0].factoring.axis_d1;
    const int64_t n = ElementCount(shape), rows = n / shape[d0];
    Doubles want(state[0].second_moment.size(), 0.0);
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto index = reference::Unravel(i, shape);
      const double square = std::pow(gradients[0][i] / 64, 2);
      want[reference::RavelWithout(index, shape, d0)] += square;
      want[rows + reference::RavelWithout(index, shape, d1)] += square;
      total += square;
    }
    // 320 additions at most on a path in f32, see ExpectSameState.
    ExpectNear(run.bench.Values(run.args.factored_sums), want, 320 * 0x1p-24, 0);
    EXPECT_NEAR(run.bench.Values(run.args.gradient_square_sum)[0], total, 320 * 0x1p-24 * total);
  }
}

TEST_P(GradStatsTest, ANormBelowTheLimitIsLeftAloneAndOneAboveIsScaledToIt) {
  TensorState t = MakeTensor({4}, Rule::kSgd, 1, /*learning_rate=*/1.0, /*weight_decay=*/0.0);
  t.parameter.assign(4, 0.0);
  StepValues step;
  step.gradient_scale = 0.5;
  const auto update = [&](const Doubles& gradient) {
    return StepRun({t}, {gradient}, Rule::kSgd, step, GetParam()).After({t})[0].parameter;
  };
  EXPECT_EQ(update({0.5, 0.5, 0.5, 0.5}), (Doubles{-0.25, -0.25, -0.25, -0.25}));  // norm 0.5
  EXPECT_EQ(update({1, 1, 1, 1}), (Doubles{-0.5, -0.5, -0.5, -0.5}));  // norm 1: factor 1
  EXPECT_EQ(update({4, 4, 4, 4}), (Doubles{-0.5, -0.5, -0.5, -0.5}));  // norm 4
}

// The update uses m before it is rounded to bf16: 1/3 is not a bf16 number.
TEST_P(GradStatsTest, UpdateUsesMomentumBeforeItIsRounded) {
  TensorState t = MakeTensor({1}, Rule::kSgd, 1, 1.0, 0.0);
  t.parameter = {0.0};
  const double third = static_cast<float>(1.0 / 3.0);
  const auto after = StepRun({t}, {{third}}, Rule::kSgd, StepValues{}, GetParam()).After({t})[0];
  EXPECT_EQ(after.parameter[0], -third);
  EXPECT_NE(after.momentum[0], third);
  EXPECT_NEAR(after.momentum[0], third, third * 0x1p-8);
}

// Early updates of a constant gradient are 0.1, 0.19, ... of the sign: no correction of the
// momentum's bias.
TEST_P(GradStatsTest, AdafactorDoesNotCorrectTheBiasOfItsMomentum) {
  TensorState t = MakeTensor({8}, Rule::kAdafactor, 1, 1.0, 0.0);
  t.parameter.assign(8, 0.0);
  std::vector<TensorState> state = {t};
  const Doubles ones(8, 0.1);
  double expected = 0, m = 0;
  for (int64_t k = 0; k < 3; ++k) {
    StepValues step = ScalarsOf(Rule::kAdafactor, k);
    step.schedule = step.gradient_scale = 1;
    state = StepRun(state, {ones}, Rule::kAdafactor, step, GetParam()).After(state);
    m = 0.9 * m + 0.1;
    expected -= m;
    ExpectNear(state[0].parameter, Doubles(8, expected), 0x1p-8, 0);
  }
}

TEST_P(GradStatsTest, WeightDecayIsNotMultipliedByTheLearningRate) {
  TensorState t = MakeTensor({32, 32}, Rule::kAdafactor, 1, 0.0, 0.25);
  StepValues step;
  step.schedule = 0.5;
  const auto after =
      StepRun({t}, Gradients({t}, 1.0, 1), Rule::kAdafactor, step, GetParam()).After({t})[0];
  Doubles want = t.parameter;
  for (double& p : want) p *= 1 - 0.5 * 0.25;
  ExpectNear(after.parameter, want, 0x1p-23, 0);
}

}  // namespace
}  // namespace vitscale
