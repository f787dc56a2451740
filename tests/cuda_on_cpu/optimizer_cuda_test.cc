// GradStats and the three optimizers on CUDA: against sums and rules in f64, and against the CPU
// backend.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/kernels/optimizer_bench.h"
#include "worker/model/param_table.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

constexpr double kUlp = 0x1p-23;

// ---- a step on both sides -----------------------------------------------------------------------

// Statistics, then the update, `times` times over with the same gradients.
struct PairStep {
  OpPair pair{DType::kF32};
  OptimizerArgs args;

  PairStep(const std::vector<TensorState>& tensors, const std::vector<Doubles>& gradients,
           Rule rule, const StepValues& step, int apply = 1, int times = 1) {
    int64_t factored = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      args.tensors.push_back(PlaceTensor(tensors[i], gradients[i], absl::StrCat("t", i), pair));
      if (tensors[i].factoring.factored) factored += tensors[i].second_moment.size();
    }
    args.gradient_square_sum = pair.Output("square_sum", DType::kF64, {1}, Arena::kStatistics);
    if (factored > 0) args.factored_sums = pair.Output("sums", DType::kF32, {factored});
    args.parameter_square_sum = pair.Output("p2", DType::kF64, {1}, Arena::kStatistics);
    args.update_square_sum = pair.Output("u2", DType::kF64, {1}, Arena::kStatistics);
    args.beta1 = step.beta1;
    args.clip_norm = static_cast<float>(step.clip_norm);
    Program program;
    for (int i = 0; i < times; ++i) {
      program.Add(GradStatsArgs{args.tensors, args.gradient_square_sum, args.factored_sums});
      AddUpdate(rule, args, step, program);
    }
    EXPECT_THAT(pair.RunProgram(program, EngineScalars(step, apply)), IsOk());
  }

  // The state after the step, of one side.
  using Side = Doubles (OpPair::*)(const TensorView&) const;
  std::vector<TensorState> After(std::vector<TensorState> tensors, Side side) const {
    for (size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].parameter = (pair.*side)(args.tensors[i].parameter);
      tensors[i].momentum = (pair.*side)(args.tensors[i].momentum);
      if (tensors[i].second_moment.empty()) continue;
      tensors[i].second_moment = (pair.*side)(args.tensors[i].second_moment);
    }
    return tensors;
  }
};

std::string Noun(const TensorState& t) {
  return absl::StrCat("[", absl::StrJoin(t.shape, ", "), "]");
}

double Largest(const Doubles& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}
double LargestChange(const TensorState& a, const TensorState& b) {
  double largest = 0;
  for (size_t i = 0; i < a.parameter.size(); ++i) {
    largest = std::max(largest, std::abs(a.parameter[i] - b.parameter[i]));
  }
  return largest;
}

// Second moments, and with them updates, differ by `moment` relative. A momentum stored as bf16 may
// fall on the other side of a rounding: one unit, 2^-7. What is left of two terms that cancel has
// the error of the terms, and those are no larger than the largest momentum.
void ExpectNearState(const std::vector<TensorState>& actual, const std::vector<TensorState>& want,
                     const std::vector<TensorState>& before, double moment) {
  for (size_t i = 0; i < want.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("tensor ", i, " ", Noun(want[i])));
    ExpectNear(actual[i].second_moment, want[i].second_moment, moment, 0, "second moment");
    const double momentum = std::max(Largest(want[i].momentum), Largest(before[i].momentum));
    ExpectNear(actual[i].momentum, want[i].momentum, 0x1p-7, (moment + kUlp) * momentum,
               "momentum");
    ExpectNear(actual[i].parameter, want[i].parameter, kUlp,
               2 * (moment + kUlp) * LargestChange(want[i], before[i]), "parameter");
  }
}

// The tensors of a model on the GPU: besides ModelTensors more than one tile in every direction,
// and sums of so many slots that a warp adds them.
std::vector<TensorState> CudaTensors(Rule rule) {
  std::vector<TensorState> tensors = ModelTensors(rule);
  for (const Shape& shape : {Shape{300, 260}, Shape{130, 3, 72}, Shape{33, 8320}, Shape{40, 8195},
                             Shape{2, 130, 2, 132}, Shape{16 * 1024 + 5}, Shape{3}, Shape{1}}) {
    tensors.push_back(MakeTensor(shape, rule, 300 + tensors.size()));
  }
  return tensors;
}

class OptimizerCudaTest : public testing::TestWithParam<Rule> {
 protected:
  Rule rule() { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(EveryRule, OptimizerCudaTest,
                         testing::Values(Rule::kAdafactor, Rule::kAdamW, Rule::kSgd),
                         [](const auto& info) { return RuleName(info.param); });

// ---- statistics ---------------------------------------------------------------------------------

// Sums of (scale g)^2 over axis d0 and over axis d1, one after the other.
Doubles ExactSums(const TensorState& t, const Doubles& gradient, double scale) {
  const auto sums_without = [&](int left_out) {
    Doubles sums(gradient.size() / t.shape[left_out], 0.0);
    for (size_t i = 0; i < gradient.size(); ++i) {
      const std::vector<int64_t> index = reference::Unravel(static_cast<int64_t>(i), t.shape);
      int64_t at = 0;
      for (size_t axis = 0; axis < index.size(); ++axis) {
        if (static_cast<int>(axis) != left_out) at = at * t.shape[axis] + index[axis];
      }
      sums[at] += scale * gradient[i] * scale * gradient[i];
    }
    return sums;
  };
  Doubles sums = sums_without(t.factoring.axis_d0);
  const Doubles columns = sums_without(t.factoring.axis_d1);
  sums.insert(sums.end(), columns.begin(), columns.end());
  return sums;
}

// Roundings of a sum of positive terms on the longest way, each 2^-24: scale 2 (it is squared),
// square 1, tree of a row 7, slot to sum 1.
TEST(GradStatsCudaTest, SumsOfEveryKindOfTensorAreExactTo16Roundings) {
  const std::vector<TensorState> tensors = CudaTensors(Rule::kAdafactor);
  const std::vector<Doubles> gradients = Gradients(tensors, 0.3, 21);
  StepValues step = ScalarsOf(Rule::kAdafactor, 3);
  const PairStep run(tensors, gradients, Rule::kAdafactor, step);
  EXPECT_THAT(run.pair.variant(), HasSubstr("25 tensors: 13 vector, 4 strided, 8 runs"));
  Doubles want;
  double total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    for (const double g : gradients[i]) total += std::pow(step.gradient_scale * g, 2);
    if (!tensors[i].factoring.factored) continue;
    const Doubles sums = ExactSums(tensors[i], gradients[i], step.gradient_scale);
    want.insert(want.end(), sums.begin(), sums.end());
  }
  ExpectNear(run.pair.Cuda(run.args.factored_sums), want, 16 * 0x1p-24, 0, "sums");
  ExpectNear(run.pair.Cuda(run.args.gradient_square_sum), {total}, 16 * 0x1p-24, 0, "all");
  // The CPU adds up to 256 squares of a row in one lane, then lanes.
  run.pair.ExpectNear(run.args.factored_sums, 290 * 0x1p-24, 0);
  run.pair.ExpectNear(run.args.gradient_square_sum, 290 * 0x1p-24, 0);
}

// ---- updates ------------------------------------------------------------------------------------

TEST_P(OptimizerCudaTest, StepsMatchTheIndependentImplementationForEveryKindOfTensor) {
  std::vector<TensorState> state = CudaTensors(rule());
  for (int64_t k = 0; k < 3; ++k) {
    SCOPED_TRACE(absl::StrCat("step ", k));
    const StepValues step = ScalarsOf(rule(), k + 1);
    // Norms on both sides of the clip.
    const auto gradients = Gradients(state, k % 2 == 0 ? 0.02 : 2.0, 10 + k);
    const PairStep run(state, gradients, rule(), step);
    std::vector<TensorState> want = state;
    ReferenceStep(rule(), want, gradients, step);
    const std::vector<TensorState> after = run.After(state, &OpPair::Cuda);
    // A sum of squares has 11 roundings; clip, average and factors another four.
    ExpectNearState(after, want, state, 16 * 0x1p-24);
    if (HasFailure()) return;
    state = after;
  }
}

TEST_P(OptimizerCudaTest, StepsMatchTheCpuBackendAndSoDoTheNorms) {
  std::vector<TensorState> state = CudaTensors(rule());
  for (int64_t k = 0; k < 3; ++k) {
    SCOPED_TRACE(absl::StrCat("step ", k));
    StepValues step = ScalarsOf(rule(), k + 4);
    if (k == 2) step.clip_norm = 0;
    const auto gradients = Gradients(state, k % 2 == 0 ? 2.0 : 0.02, 30 + k);
    const PairStep run(state, gradients, rule(), step);
    const std::vector<TensorState> want = run.After(state, &OpPair::Cpu);
    ExpectNearState(run.After(state, &OpPair::Cuda), want, state, 300 * 0x1p-24);
    // Of parameters that differ in the last place at most, and of updates as exact as moments.
    run.pair.ExpectNear(run.args.parameter_square_sum, 0x1p-22, 0);
    run.pair.ExpectNear(run.args.update_square_sum, 600 * 0x1p-24, 0);
    if (HasFailure()) return;
    state = want;
  }
}

// The norms are sums of what was written, in f64: no rounding but the order of the additions.
TEST_P(OptimizerCudaTest, TheParameterNormIsThatOfTheParametersWritten) {
  const std::vector<TensorState> state = CudaTensors(rule());
  const PairStep run(state, Gradients(state, 1.0, 8), rule(), ScalarsOf(rule(), 2));
  double want = 0;
  for (const TensorState& t : run.After(state, &OpPair::Cuda)) {
    for (const double p : t.parameter) want += p * p;
  }
  ExpectNear(run.pair.Cuda(run.args.parameter_square_sum), {want}, 1e-12, 0, "norm");
}

// Errors of one step feed the next: updates of three steps add up, each with the error of its
// second moment and of a momentum that may have been rounded to the other side.
TEST_P(OptimizerCudaTest, StepsInARowStayWithTheCpuBackend) {
  const std::vector<TensorState> state = CudaTensors(rule());
  const PairStep run(state, Gradients(state, 1.0, 9), rule(), ScalarsOf(rule(), 6), 1, 3);
  const auto want = run.After(state, &OpPair::Cpu), after = run.After(state, &OpPair::Cuda);
  for (size_t i = 0; i < state.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("tensor ", i, " ", Noun(state[i])));
    ExpectNear(after[i].second_moment, want[i].second_moment, 300 * 0x1p-24, 0, "second moment");
    ExpectNear(after[i].parameter, want[i].parameter, 3 * kUlp,
               3 * 0x1p-7 * LargestChange(want[i], state[i]), "parameter");
  }
}

// With the same sums on both sides every operation on an element is the same one: SGD and AdamW
// agree to the bit but for the bias correction, whose power may differ in its last place; factored
// tensors but for the order of the mean of v_row, which is summed in f64.
TEST_P(OptimizerCudaTest, TheUpdateAloneIsThatOfTheCpuToTheLastPlace) {
  const std::vector<TensorState> state = CudaTensors(rule());
  const auto gradients = Gradients(state, 1.0, 12);
  const StepValues step = ScalarsOf(rule(), 8);
  OpPair pair(DType::kF32);
  OptimizerArgs args;
  int64_t factored = 0;
  for (size_t i = 0; i < state.size(); ++i) {
    args.tensors.push_back(PlaceTensor(state[i], gradients[i], absl::StrCat("t", i), pair));
    if (state[i].factoring.factored) factored += state[i].second_moment.size();
  }
  args.gradient_square_sum =
      pair.Input("square_sum", DType::kF64, {1}, {7.25}, Arena::kStatistics);  // clipped
  if (factored > 0) {
    args.factored_sums =
        pair.Input("sums", DType::kF32, {factored}, UniformValues(factored, 0.5, 4.0, 13));
  }
  Program program;
  AddUpdate(rule(), args, step, program);
  ASSERT_THAT(pair.RunProgram(program, EngineScalars(step)), IsOk());
  for (const OptimizedTensor& t : args.tensors) {
    // Momentum starts at zero: nothing cancels. Factors: one unit each.
    pair.ExpectNear(t.momentum, 0x1p-7, 0);
    pair.ExpectNear(t.parameter, kUlp, 4 * kUlp * Largest(pair.Cpu(t.momentum)) * 0.02);
    if (t.second_moment.present()) pair.ExpectNear(t.second_moment, kUlp, 0);
    if (rule() == Rule::kSgd) {
      pair.ExpectSameBits(t.parameter);
      pair.ExpectSameBits(t.momentum);
    }
  }
}

TEST_P(OptimizerCudaTest, ZeroGradientsGiveZeroUpdatesAndNeverNaN) {
  std::vector<TensorState> state = CudaTensors(rule());
  for (TensorState& t : state) t.weight_decay = 0;
  auto gradients = Gradients(state, 1.0, 70);
  for (size_t i = 0; i + 1 < state.size(); ++i) gradients[i].assign(gradients[i].size(), 0.0);
  const PairStep run(state, gradients, rule(), ScalarsOf(rule(), 4), 1, 2);
  const auto after = run.After(state, &OpPair::Cuda), cpu = run.After(state, &OpPair::Cpu);
  for (size_t i = 0; i + 1 < state.size(); ++i) {
    EXPECT_EQ(after[i].parameter, state[i].parameter) << i;
    EXPECT_EQ(after[i].momentum, state[i].momentum) << i;
    ExpectNear(after[i].second_moment, cpu[i].second_moment, kUlp, 0, Noun(state[i]));
  }
}

// The kinds of tensors and the factoring of a real model.
TEST(AdafactorCudaTest, AStepOfASmallModelWithItsMapHeadMatchesTheCpuBackend) {
  ModelConfig model;
  model.image_size = 32;
  model.patch = 8;
  model.width = 48;
  model.depth = 1;
  model.heads = 2;
  model.mlp_width = 96;
  model.classes = 37;
  model.pool = PoolKind::kMap;
  const ParamTable table(model, OptimizerKind::kAdafactor);
  std::vector<TensorState> state;
  for (const Parameter& p : table.parameters()) {
    state.push_back(MakeTensor(p.shape, Rule::kAdafactor, 500 + state.size(),
                               p.decay == DecayGroup::kHead ? 1.0 : 0.01));
    EXPECT_EQ(state.back().factoring.factored, p.factoring.factored) << p.name;
  }
  const PairStep run(state, Gradients(state, 0.5, 77), Rule::kAdafactor,
                     ScalarsOf(Rule::kAdafactor, 5), 1, 1);
  ExpectNearState(run.After(state, &OpPair::Cuda), run.After(state, &OpPair::Cpu), state,
                  300 * 0x1p-24);
}

// ---- the gate -----------------------------------------------------------------------------------

TEST_P(OptimizerCudaTest, NoBitChangesWhenTheGateIsClosed) {
  const std::vector<TensorState> state = ModelTensors(rule());
  const PairStep run(state, Gradients(state, 1.0, 4), rule(), ScalarsOf(rule(), 7), /*apply=*/0);
  const auto after = run.After(state, &OpPair::Cuda);
  for (size_t i = 0; i < state.size(); ++i) {
    EXPECT_EQ(after[i].parameter, state[i].parameter) << i;
    EXPECT_EQ(after[i].momentum, state[i].momentum) << i;
    EXPECT_EQ(after[i].second_moment, state[i].second_moment) << i;
  }
  // Not even the norms, which hold what tests write into outputs.
  run.pair.ExpectSameBits(run.args.parameter_square_sum);
  run.pair.ExpectSameBits(run.args.update_square_sum);
}

TEST_P(OptimizerCudaTest, NoBitChangesWhenAGradientIsNotFinite) {
  std::vector<TensorState> state = {
      MakeTensor({14, 3, 40}, rule(), 1), MakeTensor({64, 2, 36}, rule(), 2),
      MakeTensor({34, 33}, rule(), 3), MakeTensor({64, 40, 8}, rule(), 4)};
  for (TensorState& t : state) {
    t.momentum.assign(t.momentum.size(), 0.5);
    t.second_moment.assign(t.second_moment.size(), 0.25);
  }
  const auto gradients = Gradients(state, 1.0, 5);
  StepValues step = ScalarsOf(rule(), 7);
  step.gradient_scale = 1.0;
  for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}, 3e38}) {
    for (size_t tensor = 0; tensor < state.size(); ++tensor) {
      auto spoiled = gradients;
      spoiled[tensor][spoiled[tensor].size() - 2] = bad;
      const PairStep run(state, spoiled, rule(), step);
      EXPECT_FALSE(std::isfinite(run.pair.Cuda(run.args.gradient_square_sum)[0])) << bad;
      const auto after = run.After(state, &OpPair::Cuda);
      for (size_t i = 0; i < state.size(); ++i) {
        EXPECT_EQ(after[i].parameter, state[i].parameter) << bad << " in " << tensor;
        EXPECT_EQ(after[i].momentum, state[i].momentum) << bad << " in " << tensor;
        EXPECT_EQ(after[i].second_moment, state[i].second_moment) << bad << " in " << tensor;
      }
    }
  }
}

}  // namespace
}  // namespace vitscale
