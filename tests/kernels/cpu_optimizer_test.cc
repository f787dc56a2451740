// GradStats and the three optimizers against an independent f64 implementation of the published rules, over 20
// steps, for every kind of tensor a Vision Transformer has.

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/reference/optimizer_reference.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using reference::StepValues;
using reference::TensorState;

enum class Rule { kAdafactor, kAdamW, kSgd };
const char* RuleName(Rule rule) {
  return rule == Rule::kAdafactor ? "Adafactor" : rule == Rule::kAdamW ? "AdamW" : "Sgd";
}

TensorState MakeTensor(Shape shape, Rule rule, uint64_t seed, double learning_rate = 0.01,
                       double weight_decay = 0.001) {
  TensorState t;
  t.shape = shape;
  if (rule == Rule::kAdafactor) t.factoring = reference::FactoringOf(shape);
  t.learning_rate = static_cast<float>(learning_rate);
  t.weight_decay = static_cast<float>(weight_decay);
  const int64_t n = ElementCount(shape);
  t.parameter = Rounded(NormalValues(n, 0.5, seed), DType::kF32);
  t.momentum.assign(n, 0.0);
  int64_t moments = rule == Rule::kSgd ? 0 : n;
  if (t.factoring.factored) moments = n / shape[t.factoring.axis_d0] + n / shape[t.factoring.axis_d1];
  t.second_moment.assign(moments, 0.0);
  return t;
}

// The tensors of a model, small. Comments: d0, d1 as optax chooses them.
std::vector<TensorState> ModelTensors(Rule rule) {
  const std::vector<Shape> shapes = {
      {14, 14, 3, 40},  // embedding with patch 14: not factored
      {32, 32, 3, 40},  // embedding with patch 32: 3 and 1 (axes 0 and 1 tie, the later counts as larger)
      {1, 33, 48},      // position embedding: 2 and 1
      {64, 2, 32},      // query, key, value: 0 and 2, per head
      {2, 32, 64},      // out: 2 and 1, per head
      {64, 40, 8},      // more heads than head_dim: 0 and 1, inner axis left over
      {2, 32},          // their biases: not factored
      {48, 100}, {100, 48},  // MLP
      {36, 36},         // tie: 1 and 0
      {40, 3, 40},      // tie around a batch axis: 2 and 0
      {64}, {1, 1, 64}, // LayerNorm, probe, class token: not factored
      {64, 10},         // head of few classes: not factored
      {33, 2100}, {600, 33},  // head of many classes; more rows than a tile
      {3, 34, 33, 5},   // batch axes outside and inside
  };
  std::vector<TensorState> tensors;
  for (const Shape& shape : shapes) {
    const bool decays = shape.size() >= 2;
    tensors.push_back(MakeTensor(shape, rule, 100 + tensors.size(), decays ? 0.01 : 0.02,
                                 decays ? 0.001 : 0.0));
  }
  return tensors;
}

std::vector<Doubles> Gradients(const std::vector<TensorState>& tensors, double deviation,
                               uint64_t seed) {
  std::vector<Doubles> gradients;
  for (const TensorState& t : tensors) {
    Doubles g = NormalValues(t.parameter.size(), deviation, seed * 1000 + gradients.size());
    for (size_t i = 0; i < g.size(); ++i) g[i] *= 1.0 + static_cast<double>(i % 7);  // rows differ
    gradients.push_back(Rounded(std::move(g), DType::kF32));
  }
  return gradients;
}

// One step of the program that training runs: statistics, then the update.
struct StepRun {
  OpBench bench;
  OptimizerArgs args;

  StepRun(const std::vector<TensorState>& tensors, const std::vector<Doubles>& gradients, Rule rule,
          const StepValues& step, cpu::Isa isa, int threads = 1, int apply = 1)
      : bench({isa, DType::kF32}, threads) {
    int64_t factored = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      args.tensors.push_back(Place(tensors[i], gradients[i], absl::StrCat("t", i)));
      if (tensors[i].factoring.factored) factored += tensors[i].second_moment.size();
    }
    args.gradient_square_sum = bench.Output("square_sum", DType::kF64, {1}, Arena::kStatistics);
    if (factored > 0) args.factored_sums = bench.Output("sums", DType::kF32, {factored});
    args.parameter_square_sum = bench.Output("p2", DType::kF64, {1}, Arena::kStatistics);
    args.update_square_sum = bench.Output("u2", DType::kF64, {1}, Arena::kStatistics);
    args.beta1 = static_cast<float>(step.beta1);
    args.clip_norm = static_cast<float>(step.clip_norm);
    Program program;
    program.Add(GradStatsArgs{args.tensors, args.gradient_square_sum, args.factored_sums});
    AddUpdate(rule, step, program);
    StepScalars scalars;
    scalars.step = step.step;
    scalars.schedule = static_cast<float>(step.schedule);
    scalars.beta2 = static_cast<float>(step.beta2);
    scalars.gradient_scale = static_cast<float>(step.gradient_scale);
    scalars.apply = apply;
    EXPECT_THAT(bench.RunProgram(std::move(program), scalars), IsOk());
  }

  OptimizedTensor Place(const TensorState& t, const Doubles& gradient, const std::string& name) {
    OptimizedTensor o;
    o.parameter = bench.Input(name + ".p", DType::kF32, t.shape, t.parameter, Arena::kParameters);
    o.gradient = bench.Input(name + ".g", DType::kF32, t.shape, gradient, Arena::kGradients);
    o.momentum = bench.Input(name + ".m", DType::kBf16, t.shape, t.momentum, Arena::kMomentum);
    if (!t.second_moment.empty()) {
      o.second_moment =
          bench.Input(name + ".v", DType::kF32, {static_cast<int64_t>(t.second_moment.size())},
                      t.second_moment, Arena::kSecondMoment);
    }
    o.factoring = t.factoring;
    o.learning_rate = static_cast<float>(t.learning_rate);
    o.weight_decay = static_cast<float>(t.weight_decay);
    return o;
  }
  void AddUpdate(Rule rule, const StepValues& step, Program& program) {
    if (rule == Rule::kAdafactor) {
      AdafactorApplyArgs update;
      static_cast<OptimizerArgs&>(update) = args;
      program.Add(update);
    } else if (rule == Rule::kAdamW) {
      AdamWApplyArgs update;
      static_cast<OptimizerArgs&>(update) = args;
      update.beta2 = static_cast<float>(step.beta2);
      update.epsilon = static_cast<float>(step.epsilon);
      program.Add(update);
    } else {
      SgdApplyArgs update;
      static_cast<OptimizerArgs&>(update) = args;
      program.Add(update);
    }
  }

  // The state after the step.
  std::vector<TensorState> After(std::vector<TensorState> tensors) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].parameter = bench.Values(args.tensors[i].parameter);
      tensors[i].momentum = bench.Values(args.tensors[i].momentum);
      if (args.tensors[i].second_moment.present()) {
        tensors[i].second_moment = bench.Values(args.tensors[i].second_moment);
      }
    }
    return tensors;
  }
  // Every bit of parameters, momentum and second moment.
  std::vector<std::byte> StateBytes() {
    std::vector<std::byte> all;
    for (const OptimizedTensor& t : args.tensors) {
      for (const TensorView* view : {&t.parameter, &t.momentum, &t.second_moment}) {
        if (!view->present()) continue;
        const auto bytes = bench.Bytes(*view);
        all.insert(all.end(), bytes.begin(), bytes.end());
      }
    }
    return all;
  }
};

void ReferenceStep(Rule rule, std::vector<TensorState>& tensors,
                   const std::vector<Doubles>& gradients, const StepValues& step) {
  if (rule == Rule::kAdafactor) reference::AdafactorStep(tensors, gradients, step);
  if (rule == Rule::kAdamW) reference::AdamWStep(tensors, gradients, step);
  if (rule == Rule::kSgd) reference::SgdStep(tensors, gradients, step);
}

// What step `k` (from 0) of a run sees. Scalars are f32, as the engine gives them.
StepValues ScalarsOf(Rule rule, int64_t k) {
  StepValues s;
  s.step = k;
  s.schedule = static_cast<float>(std::min(1.0, static_cast<double>(k) / 5));  // 0 on the first step
  s.beta1 = 0.9f;
  s.beta2 = rule == Rule::kAdafactor
                ? static_cast<float>(std::min(0.999, 1.0 - std::pow(static_cast<double>(k + 1), -0.8)))
                : 0.999f;
  s.gradient_scale = 1.0f / 64;
  s.epsilon = 1e-8f;
  return s;
}

// The op and the reference start every step from the same state, so errors are those of one step. f32 roundings:
// a dozen of 2^-24 each on v, u and m; a sum of squares has at most 2,048 / 8 + 256 / 4 additions of positive terms
// (2^-24 * 320, and in practice its root): 2^-15 is safe for v, half of that for u. m is stored as bf16, where a
// rounding may fall on the other side: 2^-8.
void ExpectSameState(const std::vector<TensorState>& actual, const std::vector<TensorState>& want,
                     const std::vector<TensorState>& before, const StepValues& step) {
  for (size_t i = 0; i < want.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("tensor ", i, " [", absl::StrJoin(want[i].shape, ", "), "]"));
    ExpectNear(actual[i].second_moment, want[i].second_moment, 0x1p-15, 0, "second moment");
    double momentum = 0;  // the largest: where old momentum and update cancel, errors are those of the terms
    for (const double m : want[i].momentum) momentum = std::max(momentum, std::abs(m));
    ExpectNear(actual[i].momentum, want[i].momentum, 0x1p-7, 0x1p-16 * momentum, "momentum");
    // The change, not the parameter: relative to the largest change of the tensor, besides the parameter's own
    // rounding (1 ulp of values below 4).
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
INSTANTIATE_TEST_SUITE_P(
    EveryVariant, OptimizerTest,
    testing::Combine(testing::ValuesIn(AllInstructionSets()),
                     testing::Values(Rule::kAdafactor, Rule::kAdamW, Rule::kSgd)),
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

// The same without starting again from the op's state: errors add up, momentum flips of 2^-8 included. 20 updates of
// at most lr * |m| <= 0.02 * 2 * (share of flipped roundings) stay far below 2 % of the way gone.
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

// Rows and columns whose gradient is zero for long, beside others that are not: no factor overflows.
TEST_P(OptimizerTest, DeadRowsAndColumnsStayFinite) {
  std::vector<TensorState> state = {MakeTensor({40, 50}, rule(), 1), MakeTensor({64, 40, 8}, rule(), 2)};
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

// ---- statistics and clip -----------------------------------------------------------------------------------------

class GradStatsTest : public testing::TestWithParam<cpu::Isa> {};
INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, GradStatsTest, testing::ValuesIn(AllInstructionSets()),
                         [](const auto& info) { return cpu::IsaName(info.param); });

// Segments longer than a tile's columns, with and without an inner axis, and blocks that end early.
TEST_P(GradStatsTest, SumsOfSquaresMatchTheDefinitionForLongAndShortSegments) {
  for (const Shape& shape : std::vector<Shape>{{257, 2049}, {2050, 520}, {3, 40, 5000}, {70, 5, 67},
                                               {300, 290, 8}, {2, 50, 60, 3}, {33, 33}}) {
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
  EXPECT_EQ(update({1, 1, 1, 1}), (Doubles{-0.5, -0.5, -0.5, -0.5}));              // norm 1: factor 1
  EXPECT_EQ(update({4, 4, 4, 4}), (Doubles{-0.5, -0.5, -0.5, -0.5}));              // norm 4
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

// Early updates of a constant gradient are 0.1, 0.19, ... of the sign: no correction of the momentum's bias.
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
