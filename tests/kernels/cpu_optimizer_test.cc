// The three optimizers against an independent f64 implementation of the published rules, over 20
// steps, for every kind of tensor a Vision Transformer has.

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/optimizer_bench.h"

namespace vitscale {
namespace {

// The op and the reference start every step from the same state, so errors are those of one step.
// f32 roundings: a dozen of 2^-24 each on v, u and m; a sum of squares has at most 2,048 / 8 + 256
// / 4 additions of positive terms (2^-24 * 320, and in practice its root): 2^-15 is safe for v,
// half of that for u. m is stored as bf16, where a rounding may fall on the other side: 2^-8.
void ExpectSameState(const std::vector<TensorState>& actual, const std::vector<TensorState>& want,
                     const std::vector<TensorState>& before, const StepValues& step) {
  for (size_t i = 0; i < want.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("tensor ", i, " [", absl::StrJoin(want[i].shape, ", "), "]"));
    ExpectNear(actual[i].second_moment, want[i].second_moment, 0x1p-15, 0, "second moment");
    double momentum =
        0;  // the largest: where old momentum and update cancel, errors are those of the terms
    for (const double m : want[i].momentum) momentum = std::max(momentum, std::abs(m));
    ExpectNear(actual[i].momentum, want[i].momentum, 0x1p-7, 0x1p-16 * momentum, "momentum");
    // The change, not the parameter: relative to the largest change of the tensor, besides the
    // parameter's own rounding (1 ulp of values below 4).
    double largest = 0;
    for (size_t e = 0; e < want[i].parameter.size(); ++e) {
      largest = std::max(largest, std::abs(want[i].parameter[e] - before[i].parameter[e]));
    }
    ExpectNear(actual[i].parameter, want[i].parameter, 0x1p-24, 0x1p-14 * largest + 0x1p-24,
               "parameter");
  }
}

double SquareSum(const std::vector<TensorState>& tensors) {
  double sum = 0;
  for (const TensorState& t : tensors) {
    for (const double p : t.parameter) sum += p * p;
  }
  return sum;
}

class OptimizerTest : public testing::TestWithParam<std::tuple<cpu::Isa, Rule>> {
 protected:
  cpu::Isa isa() { return std::get<0>(GetParam()); }
  Rule rule() { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, OptimizerTest,
                         testing::Combine(testing::ValuesIn(AllInstructionSets()),
                                          testing::Values(Rule::kAdafactor, Rule::kAdamW,
                                                          Rule::kSgd)),
                         [](const auto& info) {
                           return absl::StrCat(cpu::IsaName(std::get<0>(info.param)), "_",
                                               RuleName(std::get<1>(info.param)));
                         });

TEST_P(OptimizerTest, TwentyStepsMatchTheIndependentImplementationForEveryTensorOfAModel) {
  std::vector<TensorState> state = ModelTensors(rule());
  for (int64_t k = 0; k < 20; ++k) {
    SCOPED_TRACE(absl::StrCat("step ", k));
    StepValues step = ScalarsOf(rule(), k);
    // Norms on both sides of the clip: about 64 * deviation * 0.0156 * sqrt(elements) * 4.
    const auto gradients = Gradients(state, k % 2 == 0 ? 0.02 : 2.0, 10 + k);
    StepRun run(state, gradients, rule(), step, isa());
    std::vector<TensorState> want = state;
    ReferenceStep(rule(), want, gradients, step);
    const std::vector<TensorState> after = run.After(state);
    ExpectSameState(after, want, state, step);
    const double parameters = SquareSum(after);
    EXPECT_NEAR(run.bench.Values(run.args.parameter_square_sum)[0], parameters, 1e-12 * parameters);
    double update = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      for (size_t e = 0; e < want[i].parameter.size(); ++e) {
        update += std::pow(want[i].parameter[e] - state[i].parameter[e], 2);
      }
    }
    EXPECT_NEAR(run.bench.Values(run.args.update_square_sum)[0], update, 1e-4 * update);
    if (HasFailure()) break;
    state = after;
  }
}

// The same without starting again from the op's state: errors add up, momentum flips of 2^-8
// included. 20 updates of at most lr * |m| <= 0.02 * 2 * (share of flipped roundings) stay far
// below 2 % of the way gone.
TEST_P(OptimizerTest, TwentyFreeStepsStayWithTheIndependentImplementation) {
  std::vector<TensorState> state = ModelTensors(rule()), want = state;
  const std::vector<TensorState> start = state;
  for (int64_t k = 0; k < 20; ++k) {
    const StepValues step = ScalarsOf(rule(), k);
    const auto gradients = Gradients(state, 2.0, 50 + k);
    state = StepRun(state, gradients, rule(), step, isa()).After(state);
    ReferenceStep(rule(), want, gradients, step);
  }
  for (size_t i = 0; i < want.size(); ++i) {
    double way = 0;
    for (size_t e = 0; e < want[i].parameter.size(); ++e) {
      way = std::max(way, std::abs(want[i].parameter[e] - start[i].parameter[e]));
    }
    ExpectNear(state[i].parameter, want[i].parameter, 0, 0.005 * way + 1e-6, absl::StrCat(i));
  }
}

TEST_P(OptimizerTest, ScheduleOfZeroMovesMomentumButNoParameter) {
  const std::vector<TensorState> state = ModelTensors(rule());
  StepValues step = ScalarsOf(rule(), 0);
  ASSERT_EQ(step.schedule, 0.0);
  StepRun run(state, Gradients(state, 1.0, 3), rule(), step, isa());
  const auto after = run.After(state);
  for (size_t i = 0; i < state.size(); ++i) {
    EXPECT_EQ(after[i].parameter, state[i].parameter) << i;
    EXPECT_NE(after[i].momentum, state[i].momentum) << i;
  }
}

// A head that starts at zero gives the body exactly zero gradients on the first two steps.
TEST_P(OptimizerTest, ZeroGradientsGiveZeroUpdatesAndNeverNaN) {
  std::vector<TensorState> state = ModelTensors(rule());
  for (TensorState& t : state) t.weight_decay = 0;
  const std::vector<TensorState> start = state;
  for (int64_t k = 0; k < 4; ++k) {
    StepValues step = ScalarsOf(rule(), k);
    step.schedule = 1.0;
    auto gradients = Gradients(state, 1.0, 70 + k);
    for (size_t i = 0; i < state.size() && k < 2; ++i) {
      if (i != 13) gradients[i].assign(gradients[i].size(), 0.0);  // all but the head
    }
    StepRun run(state, gradients, rule(), step, isa());
    std::vector<TensorState> want = state;
    ReferenceStep(rule(), want, gradients, step);
    const auto after = run.After(state);
    ExpectSameState(after, want, state, step);
    for (size_t i = 0; i < state.size() && k < 2; ++i) {
      if (i == 13) continue;
      EXPECT_EQ(after[i].parameter, start[i].parameter) << i;
    }
    state = after;
  }
}

// Rows and columns whose gradient is zero for long, beside others that are not: no factor
// overflows.
TEST_P(OptimizerTest, DeadRowsAndColumnsStayFinite) {
  std::vector<TensorState> state = {MakeTensor({40, 50}, rule(), 1),
                                    MakeTensor({64, 40, 8}, rule(), 2)};
  for (int64_t k = 0; k < 30; ++k) {
    auto gradients = Gradients(state, 1e3, 90 + k);
    for (size_t e = 0; e < gradients[0].size(); ++e) {
      if (e / 50 < 20 || e % 50 < 25) gradients[0][e] = 0;
    }
    for (size_t e = 0; e < gradients[1].size() / 2; ++e) gradients[1][e] = 0;
    StepValues step = ScalarsOf(rule(), k);
    step.clip_norm = 0;  // off: gradients stay large
    state = StepRun(state, gradients, rule(), step, isa()).After(state);
  }
  for (const TensorState& t : state) {
    for (const Doubles* values : {&t.parameter, &t.momentum, &t.second_moment}) {
      for (const double value : *values) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

TEST_P(OptimizerTest, NoBitChangesWhenTheGateIsClosedOrAGradientIsNotFinite) {
  std::vector<TensorState> state = ModelTensors(rule());
  StepValues step = ScalarsOf(rule(), 7);
  const auto gradients = Gradients(state, 1.0, 4);
  state = StepRun(state, gradients, rule(), step, isa()).After(state);  // momentum is not zero
  std::vector<std::byte> before;
  {
    StepRun closed(state, gradients, rule(), step, isa(), 1, /*apply=*/0);
    before = closed.StateBytes();
    const auto same = closed.After(state);
    for (size_t i = 0; i < state.size(); ++i) {
      ASSERT_EQ(same[i].parameter, state[i].parameter);
      ASSERT_EQ(same[i].momentum, state[i].momentum);
      ASSERT_EQ(same[i].second_moment, state[i].second_moment);
    }
  }
  for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}, 3e38}) {
    for (const size_t tensor : {size_t{0}, size_t{3}, size_t{5}, size_t{14}}) {
      auto spoiled = gradients;
      spoiled[tensor][spoiled[tensor].size() / 2 + 1] = bad;
      StepRun run(state, spoiled, rule(), step, isa());
      EXPECT_FALSE(std::isfinite(run.bench.Values(run.args.gradient_square_sum)[0])) << bad;
      EXPECT_TRUE(run.StateBytes() == before) << bad << " in tensor " << tensor;
    }
  }
}

TEST_P(OptimizerTest, BitsDoNotDependOnTheNumberOfThreads) {
  const std::vector<TensorState> state = ModelTensors(rule());
  const auto gradients = Gradients(state, 1.0, 6);
  const StepValues step = ScalarsOf(rule(), 3);
  ExpectSameBitsForAnyThreads([&](int threads) {
    StepRun run(state, gradients, rule(), step, isa(), threads);
    std::vector<std::byte> bytes = run.StateBytes();
    for (const TensorView* view : {&run.args.gradient_square_sum, &run.args.parameter_square_sum,
                                   &run.args.update_square_sum}) {
      const auto more = run.bench.Bytes(*view);
      bytes.insert(bytes.end(), more.begin(), more.end());
    }
    return bytes;
  });
}

}  // namespace
}  // namespace vitscale
