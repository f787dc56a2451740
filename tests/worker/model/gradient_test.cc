// Whole programs on the CPU backend: every gradient of a small ViT against central finite
// differences of its loss, micro-batches against one batch, bf16 against f32, and a run that must
// overfit.

#include <cmath>

#include "tests/worker/model/replica.h"

namespace vitscale {
namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of f32

PlanRequest Small() {
  PlanRequest request;
  request.model.SetShape({4, 32, 2, 2, 48});
  request.model.image_size = 8;
  request.model.channels = 2;
  request.model.classes = 6;
  request.source_height = 10;  // crops move
  request.source_width = 9;
  request.batch_micro = 4;
  return request;
}

// Values away from the initial ones: with a zero head no gradient would reach the trunk.
void Scatter(Replica& replica, uint64_t seed) {
  ASSERT_THAT(InitializeParameters(replica.plan.layout.table, seed, replica.Parameters()), IsOk());
  Draws draws(seed, DrawPurpose::kTest, 1, 0);
  for (const Parameter& p : replica.plan.layout.table.parameters()) {
    const double scale = p.name == "head/kernel" ? 0.3 : 0.1;
    for (float& value : replica.ParameterOf(p)) value += static_cast<float>(scale * draws.Normal());
  }
  replica.PrepareWeights();
}

double Norm(absl::Span<const float> values) {
  double squares = 0;
  for (float v : values) squares += double{v} * v;
  return std::sqrt(squares);
}

// ---- finite differences ------------------------------------------------------

struct Difference {
  double slope;
  double tolerance;
};

class GradientTest
    : public testing::TestWithParam<std::tuple<PoolKind, LossKind, PositionKind, int>> {
 protected:
  GradientTest()
      : replica_([] {
          PlanRequest request = Small();
          std::tie(request.model.pool, request.model.loss, request.model.position,
                   request.model.representation_size) = GetParam();
          return request;
        }()) {
    Scatter(replica_, 3);
    batch_ = MakeTestBatch(replica_.plan.request, 4, 5);
    loss_ = replica_.Step(batch_);
  }

  double LossAt(const Parameter& p, const std::vector<float>& base,
                const std::vector<double>& direction, double h) {
    const absl::Span<float> values = replica_.ParameterOf(p);
    for (size_t i = 0; i < base.size(); ++i)
      values[i] = static_cast<float>(base[i] + h * direction[i]);
    replica_.PrepareWeights();
    return replica_.Eval(batch_);
  }

  // Central differences at h and h / 2. Their truncation errors are c h^2 and c h^2 / 4, so that
  // the better one is off by a third of their difference; a whole difference leaves room for the
  // next term. Rounding: logits of size 1 come from chains of about 16 f32 operations per block and
  // norm, each off by kUnit in relation to its value, and their errors reach the loss with slope at
  // most 1 each; the square root of the number of independent errors counts. Entries of the moved
  // tensor are rounded too, which moves the point by kUnit * |base|.
  Difference Slope(const Parameter& p, const std::vector<double>& direction) {
    constexpr double kH = 1.0 / 32;
    const absl::Span<float> values = replica_.ParameterOf(p);
    const std::vector<float> base(values.begin(), values.end());
    const double wide =
        (LossAt(p, base, direction, kH) - LossAt(p, base, direction, -kH)) / (2 * kH);
    const double narrow =
        (LossAt(p, base, direction, kH / 2) - LossAt(p, base, direction, -kH / 2)) / kH;
    std::copy(base.begin(), base.end(), values.begin());
    replica_.PrepareWeights();
    const double logits =
        static_cast<double>(batch_.labels.size()) * replica_.plan.request.model.classes;
    const double rounding =
        kUnit * (64 * std::sqrt(logits) + Norm(replica_.GradientOf(p)) * Norm(base));
    return {narrow, std::abs(wide - narrow) + rounding / (kH / 2)};
  }

  double Dot(const Parameter& p, const std::vector<double>& direction) {
    double sum = 0;
    const absl::Span<const float> gradient = gradient_;
    for (size_t i = 0; i < direction.size(); ++i) sum += direction[i] * gradient[i];
    return sum;
  }

  void ExpectSlope(const Parameter& p, const std::vector<double>& direction, const char* what) {
    const Difference difference = Slope(p, direction);
    EXPECT_NEAR(Dot(p, direction), difference.slope, difference.tolerance) << p.name << " " << what;
  }

  void CheckParameter(const Parameter& p) {
    const absl::Span<float> gradient = replica_.GradientOf(p);
    gradient_.assign(gradient.begin(), gradient.end());
    const double norm = Norm(gradient_);
    ASSERT_TRUE(std::isfinite(norm)) << p.name;
    const size_t size = gradient_.size();
    if (!p.is_key_bias) {
      // Along the gradient itself the slope is its norm; the tolerance must be able to tell.
      std::vector<double> along(gradient_.begin(), gradient_.end());
      for (double& v : along) v /= norm;
      const Difference difference = Slope(p, along);
      EXPECT_NEAR(norm, difference.slope, difference.tolerance) << p.name << " along its gradient";
      EXPECT_LT(difference.tolerance, 0.05 * norm) << p.name << ": the difference says nothing";
    }
    Draws draws(11, DrawPurpose::kTest, 2, p.offset_elements);
    std::vector<double> random(size);
    for (double& v : random) v = draws.Normal() / std::sqrt(double(size));
    ExpectSlope(p, random, "in a random direction");
    for (int i = 0; i < 3; ++i) {
      std::vector<double> single(size);
      single[draws.Below(size)] = 1;
      ExpectSlope(p, single, "at one entry");
    }
  }

  Replica replica_;
  TestBatch batch_;
  double loss_ = 0;
  std::vector<float> gradient_;
};

TEST_P(GradientTest, EveryParameterAgreesWithCentralDifferences) {
  for (const Parameter& p : replica_.plan.layout.table.parameters()) CheckParameter(p);
}

// softmax(q (k + b)) = softmax(q k + q b): what a key bias adds is the same for all keys of a query
// and cancels. What is computed is rounding noise, which any adaptive optimizer blows up to full
// steps: key biases random-walk and are left out when parameters of two runs are compared.
TEST_P(GradientTest, KeyBiasesHaveNoTrueGradient) {
  int seen = 0;
  for (const Parameter& p : replica_.plan.layout.table.parameters()) {
    if (!p.is_key_bias) continue;
    ++seen;
    const std::string kernel = p.name.substr(0, p.name.size() - 4) + "kernel";
    const double noise = Norm(replica_.GradientOf(p));
    const double real = Norm(replica_.GradientOf(*replica_.plan.layout.table.Find(kernel)));
    EXPECT_GT(real, 1e-3);
    // A sum of 4 images times 5 tokens of terms that cancel.
    EXPECT_LT(noise, 4 * 5 * 64 * kUnit * real) << p.name;
  }
  EXPECT_EQ(seen, replica_.plan.request.model.pool == PoolKind::kMap ? 3 : 2);
}

TEST_P(GradientTest, EvaluationGivesTheLossOfTheStep) {
  EXPECT_EQ(replica_.Eval(batch_), loss_);
  EXPECT_EQ(replica_.Scalar<int64_t>(replica_.plan.layout.statistics.eval_correct),
            replica_.Scalar<int64_t>(replica_.plan.layout.statistics.correct));
}

INSTANTIATE_TEST_SUITE_P(
    EveryHeadLossAndPosition, GradientTest,
    testing::Combine(testing::Values(PoolKind::kMap, PoolKind::kGap, PoolKind::kCls),
                     testing::Values(LossKind::kSigmoid, LossKind::kSoftmax),
                     testing::Values(PositionKind::kLearned, PositionKind::kSincos2d),
                     testing::Values(0, 40)));

// ---- micro-batches and threads -----------------------------------------------

class HeadTest : public testing::TestWithParam<PoolKind> {
 protected:
  static PlanRequest Request(int64_t micro, Precision precision = Precision::kF32) {
    PlanRequest request = Small();
    request.model.pool = GetParam();
    request.batch_micro = micro;
    request.batch_global = 32;
    request.precision = precision;
    return request;
  }
};

// The same 32 images summed in another order: the error of each entry is at most the number of
// terms times kUnit times the sum of their absolute values, here taken over images; twice, as both
// sums are rounded. Rows of one image differ less in sign than images do; a factor 4 covers them.
TEST_P(HeadTest, FourMicroBatchesOf8EqualOneBatchOf32) {
  Replica one(Request(32)), four(Request(8)), single(Request(1));
  for (Replica* replica : {&one, &four, &single}) Scatter(*replica, 3);
  const TestBatch batch = MakeTestBatch(one.plan.request, 32, 5);
  const double loss = one.Step(batch);
  EXPECT_NEAR(four.Step(batch), loss, 32 * kUnit * loss);
  std::vector<double> absolute(one.Gradients().size());
  for (int64_t i = 0; i < 32; ++i) {
    TestBatch image;
    const int64_t pixels = single.plan.layout.input.images.elements();
    image.images.assign(batch.images.begin() + i * pixels, batch.images.begin() + (i + 1) * pixels);
    image.augment.assign(batch.augment.begin() + 3 * i, batch.augment.begin() + 3 * (i + 1));
    image.labels = {batch.labels[i]};
    single.Step(image);
    for (size_t j = 0; j < absolute.size(); ++j)
      absolute[j] += std::abs(double{single.Gradients()[j]});
  }
  const double terms = 32.0 * one.plan.request.model.tokens();
  for (const Parameter& p : one.plan.layout.table.parameters()) {
    double most = 0;
    for (int64_t j = 0; j < p.elements(); ++j)
      most = std::max(most, absolute[p.gradient_offset + j]);
    for (int64_t j = 0; j < p.elements(); ++j) {
      ASSERT_NEAR(one.GradientOf(p)[j], four.GradientOf(p)[j], 4 * 2 * terms * kUnit * most)
          << p.name << " " << j;
    }
  }
}

TEST_P(HeadTest, GradientsDoNotDependOnTheNumberOfThreads) {
  for (Precision precision : {Precision::kF32, Precision::kBf16}) {
    Replica one(Request(32, precision), 1), three(Request(32, precision), 3);
    Scatter(one, 3);
    Scatter(three, 3);
    const TestBatch batch = MakeTestBatch(one.plan.request, 32, 5);
    EXPECT_EQ(one.Step(batch), three.Step(batch));
    EXPECT_EQ(0, std::memcmp(one.Gradients().data(), three.Gradients().data(),
                             one.Gradients().size() * sizeof(float)));
  }
}

// bf16 keeps 8 significant bits: inputs of each matmul are off by at most 2^-9, and errors of a
// chain of about 12 matmuls forward and back add up like a random walk: sqrt(12) * 2^-9 < 1 %. Ten
// times that fails only if wrong.
TEST_P(HeadTest, Bf16GradientsFollowThoseOfF32) {
  Replica f32(Request(32)), bf16(Request(32, Precision::kBf16));
  Scatter(f32, 3);
  Scatter(bf16, 3);
  const TestBatch batch = MakeTestBatch(f32.plan.request, 32, 5);
  const double loss = f32.Step(batch);
  EXPECT_NEAR(bf16.Step(batch), loss, 0.01 * loss);
  for (const Parameter& p : f32.plan.layout.table.parameters()) {
    if (p.is_key_bias) continue;
    std::vector<float> difference(p.elements());
    for (int64_t j = 0; j < p.elements(); ++j)
      difference[j] = f32.GradientOf(p)[j] - bf16.GradientOf(p)[j];
    EXPECT_LT(Norm(difference), 0.1 * Norm(f32.GradientOf(p))) << p.name;
  }
}

// The same ops on the same inputs: no bit of a gradient or of the loss tells what was kept.
TEST_P(HeadTest, RecomputeLevelsGiveTheSameBits) {
  for (const Precision precision : {Precision::kF32, Precision::kBf16}) {
    for (const DType residual : {DType::kF32, DType::kBf16}) {
      PlanRequest request = Request(8, precision);
      request.model.residual = residual;
      request.model.representation_size = 40;
      request.recompute = RecomputeLevel::kNone;
      Replica kept(request, 2);
      Scatter(kept, 3);
      const TestBatch batch = MakeTestBatch(kept.plan.request, 32, 5);
      const double loss = kept.Step(batch);
      for (const auto level : {RecomputeLevel::kGeluAndLayerNorm, RecomputeLevel::kBlock}) {
        SCOPED_TRACE(absl::StrCat(PrecisionName(precision), " ", RecomputeName(level)));
        request.recompute = level;
        Replica again(request, 2);
        Scatter(again, 3);
        EXPECT_EQ(again.Step(batch), loss);
        EXPECT_EQ(0, std::memcmp(kept.Gradients().data(), again.Gradients().data(),
                                 kept.Gradients().size() * sizeof(float)));
      }
    }
  }
}

// The stream is rounded once per half block and at the embedding, five times here, each time by at
// most 2^-9 of its size: sqrt(5) * 2^-9 < 0.5 % in a random walk, which the norms behind pass on
// with slope about 1. Ten times that fails only if wrong; that gradients change at all says that
// the option does something.
TEST_P(HeadTest, Bf16ResidualFollowsF32) {
  PlanRequest request = Request(32);
  Replica f32(request);
  request.model.residual = DType::kBf16;
  Replica bf16(request);
  Scatter(f32, 3);
  Scatter(bf16, 3);
  const TestBatch batch = MakeTestBatch(f32.plan.request, 32, 5);
  const double loss = f32.Step(batch);
  EXPECT_NEAR(bf16.Step(batch), loss, 0.005 * loss);
  EXPECT_EQ(bf16.Eval(batch), bf16.Step(batch));
  for (const Parameter& p : f32.plan.layout.table.parameters()) {
    if (p.is_key_bias) continue;
    std::vector<float> difference(p.elements());
    for (int64_t j = 0; j < p.elements(); ++j)
      difference[j] = f32.GradientOf(p)[j] - bf16.GradientOf(p)[j];
    EXPECT_LT(Norm(difference), 0.05 * Norm(f32.GradientOf(p))) << p.name;
    EXPECT_GT(Norm(difference), 0) << p.name;
  }
}

TEST_P(HeadTest, GradientsAtTheInitialZeroHeadAreExactlyZeroInTheTrunk) {
  Replica replica(Request(32));
  ASSERT_THAT(InitializeParameters(replica.plan.layout.table, 3, replica.Parameters()), IsOk());
  replica.PrepareWeights();
  const double loss = replica.Step(MakeTestBatch(replica.plan.request, 32, 5));
  EXPECT_NEAR(loss, 32 * 6 * std::log(2.0), 1e-4);  // sigmoid of 0 for each of 6 classes
  for (const Parameter& p : replica.plan.layout.table.parameters()) {
    if (p.name.rfind("head/", 0) == 0) {
      EXPECT_GT(Norm(replica.GradientOf(p)), 0) << p.name;
    } else {
      EXPECT_EQ(Norm(replica.GradientOf(p)), 0) << p.name;
    }
  }
}

TEST_P(HeadTest, TinyModelOverfits32Images) {
  for (Precision precision : {Precision::kF32, Precision::kBf16}) {
    OptimizerConfig optimizer;
    optimizer.learning_rate = 3e-3;
    Replica replica(Request(32, precision), 1, optimizer);
    ASSERT_THAT(InitializeParameters(replica.plan.layout.table, 3, replica.Parameters()), IsOk());
    replica.PrepareWeights();
    const TestBatch batch = MakeTestBatch(replica.plan.request, 32, 5);
    const double start = replica.Step(batch);
    double loss = start;
    for (int step = 0; step < 150; ++step) {
      StepScalars scalars;
      scalars.step = step;
      scalars.beta2 = static_cast<float>(std::min(0.999, 1 - std::pow(step + 1, -0.8)));
      scalars.gradient_scale = 1.0f / 32;
      replica.Update(scalars);
      loss = replica.Step(batch);
    }
    EXPECT_LT(loss, 0.1 * start) << PrecisionName(precision);
    EXPECT_GE(replica.Scalar<int64_t>(replica.plan.layout.statistics.correct), 30);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryHead, HeadTest,
                         testing::Values(PoolKind::kMap, PoolKind::kGap, PoolKind::kCls));

}  // namespace
}  // namespace vitscale
