// Steps of an optimizer on small tensors of every kind that a Vision Transformer has.

#ifndef TESTS_KERNELS_OPTIMIZER_BENCH_H_
#define TESTS_KERNELS_OPTIMIZER_BENCH_H_

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/reference/optimizer_reference.h"
#include "tests/status_matchers.h"

namespace vitscale {

using reference::StepValues;
using reference::TensorState;

enum class Rule { kAdafactor, kAdamW, kSgd };
inline const char* RuleName(Rule rule) {
  return rule == Rule::kAdafactor ? "Adafactor" : rule == Rule::kAdamW ? "AdamW" : "Sgd";
}

inline TensorState MakeTensor(Shape shape, Rule rule, uint64_t seed, double learning_rate = 0.01,
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
  if (t.factoring.factored)
    moments = n / shape[t.factoring.axis_d0] + n / shape[t.factoring.axis_d1];
  t.second_moment.assign(moments, 0.0);
  return t;
}

// The tensors of a model, small. Comments: d0, d1 as optax chooses them.
inline std::vector<TensorState> ModelTensors(Rule rule) {
  const std::vector<Shape> shapes = {
      {14, 14, 3, 40},  // embedding with patch 14: not factored
      {32, 32, 3,
       40},  // embedding with patch 32: 3 and 1 (axes 0 and 1 tie, the later counts as larger)
      {1, 33, 48},  // position embedding: 2 and 1
      {64, 2, 32},  // query, key, value: 0 and 2, per head
      {2, 32, 64},  // out: 2 and 1, per head
      {64, 40, 8},  // more heads than head_dim: 0 and 1, inner axis left over
      {2, 32},      // their biases: not factored
      {48, 100},
      {100, 48},    // MLP
      {36, 36},     // tie: 1 and 0
      {40, 3, 40},  // tie around a batch axis: 2 and 0
      {64},
      {1, 1, 64},  // LayerNorm, probe, class token: not factored
      {64, 10},    // head of few classes: not factored
      {33, 2100},
      {600, 33},       // head of many classes; more rows than a tile
      {3, 34, 33, 5},  // batch axes outside and inside
  };
  std::vector<TensorState> tensors;
  for (const Shape& shape : shapes) {
    const bool decays = shape.size() >= 2;
    tensors.push_back(
        MakeTensor(shape, rule, 100 + tensors.size(), decays ? 0.01 : 0.02, decays ? 0.001 : 0.0));
  }
  return tensors;
}

inline std::vector<Doubles> Gradients(const std::vector<TensorState>& tensors, double deviation,
                                      uint64_t seed) {
  std::vector<Doubles> gradients;
  for (const TensorState& t : tensors) {
    Doubles g = NormalValues(t.parameter.size(), deviation, seed * 1000 + gradients.size());
    for (size_t i = 0; i < g.size(); ++i) g[i] *= 1.0 + static_cast<double>(i % 7);  // rows differ
    gradients.push_back(Rounded(std::move(g), DType::kF32));
  }
  return gradients;
}

// Gives a tensor and its gradient places on `bench`: an OpBench, or two of them (OpPair).
template <typename Bench>
OptimizedTensor PlaceTensor(const TensorState& t, const Doubles& gradient, const std::string& name,
                            Bench& bench) {
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

inline void AddUpdate(Rule rule, const OptimizerArgs& args, const StepValues& step,
                      Program& program) {
  if (rule == Rule::kAdafactor) program.Add(AdafactorApplyArgs{args});
  if (rule == Rule::kAdamW) {
    program.Add(AdamWApplyArgs{args, step.beta2, static_cast<float>(step.epsilon)});
  }
  if (rule == Rule::kSgd) program.Add(SgdApplyArgs{args});
}

inline StepScalars EngineScalars(const StepValues& step, int apply = 1) {
  StepScalars scalars;
  scalars.step = step.step;
  scalars.schedule = step.schedule;
  scalars.beta2 = step.beta2;
  scalars.gradient_scale = static_cast<float>(step.gradient_scale);
  scalars.apply = apply;
  return scalars;
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
      args.tensors.push_back(PlaceTensor(tensors[i], gradients[i], absl::StrCat("t", i), bench));
      if (tensors[i].factoring.factored) factored += tensors[i].second_moment.size();
    }
    args.gradient_square_sum = bench.Output("square_sum", DType::kF64, {1}, Arena::kStatistics);
    if (factored > 0) args.factored_sums = bench.Output("sums", DType::kF32, {factored});
    args.parameter_square_sum = bench.Output("p2", DType::kF64, {1}, Arena::kStatistics);
    args.update_square_sum = bench.Output("u2", DType::kF64, {1}, Arena::kStatistics);
    args.beta1 = step.beta1;
    args.clip_norm = static_cast<float>(step.clip_norm);
    Program program;
    program.Add(GradStatsArgs{args.tensors, args.gradient_square_sum, args.factored_sums});
    AddUpdate(rule, args, step, program);
    EXPECT_THAT(bench.RunProgram(std::move(program), EngineScalars(step, apply)), IsOk());
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

inline void ReferenceStep(Rule rule, std::vector<TensorState>& tensors,
                          const std::vector<Doubles>& gradients, const StepValues& step) {
  if (rule == Rule::kAdafactor) reference::AdafactorStep(tensors, gradients, step);
  if (rule == Rule::kAdamW) reference::AdamWStep(tensors, gradients, step);
  if (rule == Rule::kSgd) reference::SgdStep(tensors, gradients, step);
}

// What step `k` (from 0) of a run sees, as the engine gives it.
inline StepValues ScalarsOf(Rule rule, int64_t k) {
  StepValues s;
  s.step = k;
  s.schedule =
      static_cast<float>(std::min(1.0, static_cast<double>(k) / 5));  // 0 on the first step
  s.beta2 = rule == Rule::kAdafactor
                ? std::min(0.999, 1.0 - std::pow(static_cast<double>(k + 1), -0.8))
                : 0.999;
  s.gradient_scale = 1.0f / 64;
  s.epsilon = 1e-8f;
  return s;
}

}  // namespace vitscale

#endif  // TESTS_KERNELS_OPTIMIZER_BENCH_H_
