// Why key biases are left out when parameters of two runs are compared.
//
// softmax(q (k + b)) = softmax(q k + q b): a key bias adds the same to all scores of a query, which
// softmax takes out again. Its true gradient is 0. What is computed is rounding noise, which
// depends on the order of sums, so on the number of workers, the micro-batch and the
// implementation. SGD leaves such noise where it is; an optimizer that divides by the root of the
// second moment (Adam, Adafactor without factoring) makes steps of full size out of it. So key
// biases random-walk, each run on its own path, and nothing that the model computes depends on
// them.

#include <cmath>
#include <string>
#include <vector>

#include "tests/golden/golden.h"
#include "tests/worker/model/replica.h"

namespace vitscale::golden {
namespace {

constexpr int kSteps = 20;
constexpr float kLearningRate = 1e-3f;
constexpr int64_t kBatch = 32;

PlanRequest RequestOf(OptimizerKind optimizer, int64_t micro) {
  PlanRequest request;
  request.model.SetShape({.patch = 4, .width = 32, .depth = 2, .heads = 2, .mlp_width = 48});
  request.model.image_size = 8;
  request.model.classes = 6;
  request.optimizer = optimizer;
  request.batch_micro = micro;
  request.batch_global = kBatch;
  return request;
}

// A run of kSteps; the same images whatever the micro-batch, whose only effect is the order of
// sums, as that of the number of workers is.
struct Training {
  Training(OptimizerKind kind, int64_t micro)
      : replica(RequestOf(kind, micro), 1, Optimizer(kind)) {
    EXPECT_THAT(InitializeParameters(replica.plan.layout.table, 3, replica.Parameters()), IsOk());
    Draws draws(7, DrawPurpose::kTest, 1, 0);
    const Parameter& head = *replica.plan.layout.table.Find("head/kernel");
    for (float& value : replica.ParameterOf(head)) value = static_cast<float>(0.3 * draws.Normal());
    replica.PrepareWeights();
    const TestBatch batch = MakeTestBatch(replica.plan.request, kBatch, 5);
    for (int step = 0; step < kSteps; ++step) {
      loss = replica.Step(batch);
      StepScalars scalars;
      scalars.step = step;
      scalars.beta2 = static_cast<float>(std::min(0.999, 1 - std::pow(step + 1, -0.8)));
      scalars.gradient_scale = kind == OptimizerKind::kAdamW ? 1.0f : 1.0f / kBatch;
      replica.Update(scalars);
    }
  }
  static OptimizerConfig Optimizer(OptimizerKind kind) {
    OptimizerConfig optimizer;
    optimizer.kind = kind;
    optimizer.learning_rate = kLearningRate;
    optimizer.clip_norm = 0;
    return optimizer;
  }
  std::vector<double> ValuesOf(const Parameter& p) {
    const absl::Span<float> values = replica.ParameterOf(p);
    return {values.begin(), values.end()};
  }

  Replica replica;
  double loss = 0;
};

// Root mean square of a tensor that started at 0, and of the difference of two runs, in learning
// rates: what full steps in one direction would be counted as.
double StepsMoved(Training& run, const Parameter& p) {
  return L2(run.ValuesOf(p)) / std::sqrt(double(p.elements())) / kLearningRate;
}
double StepsApart(Training& a, Training& b, const Parameter& p) {
  std::vector<double> difference = a.ValuesOf(p);
  const std::vector<double> other = b.ValuesOf(p);
  for (size_t i = 0; i < other.size(); ++i) difference[i] -= other[i];
  return L2(difference) / std::sqrt(double(other.size())) / kLearningRate;
}

class KeyBiasTest : public testing::TestWithParam<OptimizerKind> {};

TEST_P(KeyBiasTest, TwoOrdersOfSummationDriveKeyBiasesApartAndNothingElse) {
  Training one(GetParam(), kBatch), four(GetParam(), kBatch / 4);
  for (const Parameter& p : one.replica.plan.layout.table.parameters()) {
    const double apart = StepsApart(one, four, p);
    if (p.is_key_bias) {
      EXPECT_GT(apart, 0.5) << p.name << ": noise did not become steps";
    } else {
      EXPECT_LT(apart, 0.01) << p.name;
    }
  }
  EXPECT_NEAR(one.loss, four.loss, 1e-5 * one.loss);
}

// The walk is long, and the model does not see it.
TEST_P(KeyBiasTest, TheLossDoesNotDependOnKeyBiases) {
  Training run(GetParam(), kBatch);
  const TestBatch batch = MakeTestBatch(run.replica.plan.request, kBatch, 5);
  const double loss = run.replica.Eval(batch);
  for (const Parameter& p : run.replica.plan.layout.table.parameters()) {
    if (!p.is_key_bias) continue;
    EXPECT_GT(StepsMoved(run, p), 1) << p.name;
    for (float& value : run.replica.ParameterOf(p)) value = 0;
  }
  run.replica.PrepareWeights();
  EXPECT_NEAR(run.replica.Eval(batch), loss, 1e-5 * loss);
}

INSTANTIATE_TEST_SUITE_P(AdaptiveOptimizers, KeyBiasTest,
                         testing::Values(OptimizerKind::kAdafactor, OptimizerKind::kAdamW),
                         [](const auto& info) { return OptimizerKindName(info.param); });

TEST(KeyBiasWithSgdTest, NoiseStaysNoise) {
  Training one(OptimizerKind::kSgd, kBatch);
  for (const Parameter& p : one.replica.plan.layout.table.parameters()) {
    if (!p.is_key_bias) continue;
    EXPECT_LT(StepsMoved(one, p), 1e-5) << p.name;
  }
}

}  // namespace
}  // namespace vitscale::golden
