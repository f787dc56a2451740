// SigmoidLoss and SoftmaxLoss: every label kind, every variant, against the f64 reference.

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/loss_problem.h"
#include "tests/kernels/reference/loss_reference.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

// What the reference takes: one target per class.
Doubles DenseTargets(const LossProblem& p, TestLoss loss) {
  if (p.kind == LabelKind::kDense) return p.dense;
  Doubles targets(p.batch * p.classes, 0.0);
  for (int64_t b = 0; b < p.batch; ++b) {
    const bool sparse = p.kind == LabelKind::kSparse;
    const int64_t first = sparse ? static_cast<int64_t>(p.offsets[b]) : b;
    const int64_t last = sparse ? static_cast<int64_t>(p.offsets[b + 1]) : b + 1;
    for (int64_t i = first; i < last; ++i) {
      double& target = targets[b * p.classes + static_cast<int64_t>(p.ids[i])];
      target = loss == TestLoss::kSigmoid ? 1.0 : target + 1.0 / static_cast<double>(last - first);
    }
  }
  return targets;
}
Doubles Weights(const LossProblem& p) { return p.valid.empty() ? Doubles(p.batch, 1.0) : p.valid; }

reference::LossResult<double> Reference(const LossProblem& p, TestLoss loss) {
  const Doubles targets = DenseTargets(p, loss);
  return loss == TestLoss::kSigmoid ? reference::SigmoidLoss(p.logits, targets, Weights(p))
                                    : reference::SoftmaxLoss(p.logits, targets, Weights(p));
}

struct LossRun {
  OpBench bench;
  LossArgs args;
  LossRun(const LossProblem& p, TestLoss loss, Variant variant, DType grad_type,
          bool accumulate = false, int threads = 1)
      : bench(variant, threads) {
    args = AddLossOperands(p, grad_type, bench);
    args.accumulate = accumulate;
    EXPECT_THAT(RunLoss(args, loss, bench), IsOk());
  }
  double loss() { return bench.Values(args.loss_sum)[0]; }
  double correct() { return bench.Values(args.correct)[0]; }
  Doubles grad() { return bench.Values(args.grad_logits); }
};

// Images whose first greatest logit is a label, by the definition.
double CorrectImages(const LossProblem& p, TestLoss loss) {
  const Doubles targets = DenseTargets(p, loss), weights = Weights(p);
  const auto first_greatest = [&](const Doubles& v, int64_t b) {
    return std::max_element(v.begin() + b * p.classes, v.begin() + (b + 1) * p.classes) - v.begin();
  };
  double correct = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t at = first_greatest(p.logits, b);
    const bool hit =
        p.kind == LabelKind::kDense ? first_greatest(targets, b) == at : targets[at] > 0;
    correct += weights[b] != 0 && hit;
  }
  return correct;
}

class LossTest : public testing::TestWithParam<std::tuple<Variant, TestLoss>> {
 protected:
  Variant variant() { return std::get<0>(GetParam()); }
  TestLoss loss() { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, LossTest,
                         testing::Combine(testing::ValuesIn(AllVariants()),
                                          testing::Values(TestLoss::kSigmoid, TestLoss::kSoftmax)),
                         [](const auto& info) {
                           return std::string(cpu::IsaName(std::get<0>(info.param).isa)) +
                                  "_with_" + DTypeName(std::get<0>(info.param).dtype) +
                                  (std::get<1>(info.param) == TestLoss::kSigmoid ? "_sigmoid"
                                                                                 : "_softmax");
                         });

// Each term carries at most 4 ulp (exp, log1p and two sums, or exp and a product); sums are exact
// in comparison.
TEST_P(LossTest, MatchesTheReferenceForEveryLabelKindAndWidth) {
  for (const LabelKind kind : {LabelKind::kClassId, LabelKind::kSparse, LabelKind::kDense}) {
    for (const int64_t classes : {1, 2, 10, 100, 1024, 3001}) {
      for (const bool valid : {false, true}) {
        SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind) << ", classes "
                                        << classes << ", valid " << valid);
        const LossProblem p = MakeLossProblem(kind, 9, classes, valid);
        const auto want = Reference(p, loss());
        LossRun run(p, loss(), variant(), variant().dtype);
        EXPECT_NEAR(run.loss(), want.loss, 0x1p-21 * std::abs(want.loss) + 1e-6);
        EXPECT_EQ(run.correct(), CorrectImages(p, loss()));
        // Soft targets of the softmax loss sum to classes / 2, and so may a gradient's two terms.
        const double size = kind == LabelKind::kDense ? static_cast<double>(classes) : 1.0;
        ExpectNear(run.grad(), want.grad, HalfUlp(variant().dtype) + 0x1p-21, 0x1p-22 * size);
      }
    }
  }
}

TEST_P(LossTest, EvaluationWithoutGradientsGivesTheSameSums) {
  const LossProblem p = MakeLossProblem(LabelKind::kClassId, 40, 10, true);
  LossRun with(p, loss(), variant(), variant().dtype);
  LossRun without(p, loss(), variant(), kNoGradient);
  EXPECT_EQ(with.loss(), without.loss());
  EXPECT_EQ(with.correct(), without.correct());
}

TEST_P(LossTest, AccumulateAddsToWhatIsThere) {
  const LossProblem p = MakeLossProblem(LabelKind::kClassId, 8, 10, false);
  LossRun fresh(p, loss(), variant(), DType::kF32);
  LossRun added(p, loss(), variant(), DType::kF32, /*accumulate=*/true);
  EXPECT_NEAR(added.loss(), fresh.loss() + 100.0, 1e-12 * added.loss());
  EXPECT_EQ(added.correct(), fresh.correct() + 1000.0);
}

TEST_P(LossTest, PaddingIsNeverCountedWhateverItHolds) {
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 6, 20, true);  // images 1 and 4 are padding
  const LossProblem clean = p;
  for (int64_t c = 0; c < 20; ++c) p.logits[1 * 20 + c] = NAN, p.logits[4 * 20 + c] = INFINITY;
  p.ids[1] = -1, p.ids[4] = 1 << 30;
  LossRun run(p, loss(), variant(), variant().dtype),
      want(clean, loss(), variant(), variant().dtype);
  EXPECT_EQ(run.loss(), want.loss());
  EXPECT_EQ(run.correct(), want.correct());
  EXPECT_EQ(run.grad(), want.grad());
  for (int64_t c = 0; c < 20; ++c) EXPECT_EQ(run.grad()[20 + c], 0.0);
}

TEST_P(LossTest, FirstOfEqualLogitsIsTheAnswer) {
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 3, 40, false);
  p.logits.assign(p.logits.size(), -1.0);
  p.ids = {5, 0, 30};
  p.logits[0 * 40 + 5] = p.logits[0 * 40 + 37] = 2.0;   // first is 5: right
  p.logits[2 * 40 + 29] = p.logits[2 * 40 + 30] = 2.0;  // first is 29: wrong
  LossRun run(p, loss(), variant(), kNoGradient);       // image 1: all equal, first is 0: right
  EXPECT_EQ(run.correct(), 2.0);
}

TEST_P(LossTest, LargeLogitsNeitherOverflowNorLoseTheRightAnswer) {
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 2, 3, false);
  p.ids = {0, 0};
  p.logits = {20.0, -20.0, -21.0, -3e38, 3e38, 0.0};
  const auto want = Reference(p, loss());
  LossRun run(p, loss(), variant(), DType::kF32);
  EXPECT_NEAR(run.loss(), want.loss, 0x1p-22 * want.loss);
  ExpectNear(run.grad(), want.grad, 0x1p-21, 2e-38);
  p.logits = {20.0, -20.0, -21.0,
              20.0, -20.0, -21.0};  // both right: what is left is tiny but not lost
  LossRun right(p, loss(), variant(), DType::kF32);
  const double left = Reference(p, loss()).loss;
  // Softmax adds e^-40 to 1 in f64 and keeps 2^-53 absolute.
  EXPECT_NEAR(right.loss(), left, 0x1p-21 * left + (loss() == TestLoss::kSoftmax ? 1e-15 : 0));
}

// Beside a label, where y z would be 0 * -inf.
TEST_P(LossTest, MinusInfinityIsAClassThatCannotBe) {
  for (const LabelKind kind : kEveryLabelKind) {
    for (const int64_t classes : {100, 1030}) {
      LossProblem p = MakeLossProblem(kind, 4, classes, false);
      for (double& y : p.dense) y = y < 0.5 ? 0.0 : y;
      LossProblem nearly = p;
      for (int64_t b = 0; b < 4; ++b) MakeImpossible(p, b), MakeImpossible(nearly, b, -1e4);
      const auto want = Reference(nearly, loss());
      LossRun run(p, loss(), variant(), DType::kF32);
      EXPECT_NEAR(run.loss(), want.loss, 0x1p-21 * std::abs(want.loss) + 1e-6);
      const double size = kind == LabelKind::kDense ? static_cast<double>(classes) : 1.0;
      ExpectNear(run.grad(), want.grad, 0x1p-20, 0x1p-22 * size);
    }
  }
}

TEST_P(LossTest, NaNLogitsAndWrongIdsMakeTheLossNaN) {
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 4, 10, false);
  p.logits[25] = NAN;
  EXPECT_TRUE(std::isnan(LossRun(p, loss(), variant(), variant().dtype).loss()));
  for (const double id : {-1.0, 10.0, 2147483647.0}) {
    LossProblem wrong = MakeLossProblem(LabelKind::kClassId, 4, 10, false);
    wrong.ids[2] = id;
    EXPECT_TRUE(std::isnan(LossRun(wrong, loss(), variant(), variant().dtype).loss())) << id;
  }
}

TEST_P(LossTest, BitsDoNotDependOnTheNumberOfThreads) {
  const LossProblem p = MakeLossProblem(LabelKind::kSparse, 37, 1100, true);
  for (const auto member : {&LossArgs::loss_sum, &LossArgs::correct, &LossArgs::grad_logits}) {
    ExpectSameBitsForAnyThreads([&](int threads) {
      LossRun run(p, loss(), variant(), variant().dtype, false, threads);
      return run.bench.Bytes(run.args.*member);
    });
  }
}

// Known values: a head that starts at bias b has loss classes * softplus(b) - b for one label.
TEST(LossValuesTest, InitialSigmoidLossOfAWideHeadIsTheOneOfThePaper) {
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 2, 29593, false);
  p.logits.assign(p.logits.size(), -10.0);
  LossRun run(p, TestLoss::kSigmoid, {AllInstructionSets().back(), DType::kF32}, kNoGradient);
  EXPECT_NEAR(run.loss() / 2, 1.3435 + 10.0, 1e-3);
}

TEST(LossReferenceTest, GradientsAgreeWithFiniteDifferences) {
  for (const TestLoss loss : {TestLoss::kSigmoid, TestLoss::kSoftmax}) {
    LossProblem p = MakeLossProblem(LabelKind::kDense, 3, 5, false);
    p.valid = {1.0, 0.0, 1.0};
    const auto at = [&](const Doubles& logits) {
      LossProblem moved = p;
      moved.logits = logits;
      return Reference(moved, loss).loss;
    };
    // h = 1e-5: truncation below 1e-9; cancellation 1e-16 * 50 / 1e-5 = 5e-10.
    ExpectNear(Reference(p, loss).grad, CentralDifferences(at, p.logits), 0, 1e-8);
  }
}

}  // namespace
}  // namespace vitscale
