// SigmoidLoss and SoftmaxLoss on CUDA against the CPU: every label kind, every variant.
//
// Bounds: each side is within its bound of the exact result, so the two are within twice that.

#include <cmath>
#include <string>
#include <vector>

#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/kernels/loss_problem.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::StartsWith;

struct LossPair {
  OpPair pair;
  LossArgs args;

  LossPair(const LossProblem& p, TestLoss loss, DType grad_type, bool accumulate = false)
      : pair(grad_type == DType::kBf16 ? DType::kBf16 : DType::kF32) {
    args = AddLossOperands(p, grad_type, pair);
    args.accumulate = accumulate;
    EXPECT_THAT(RunLoss(args, loss, pair), IsOk());
  }
  double loss() const { return pair.Cuda(args.loss_sum)[0]; }
  double correct() const { return pair.Cuda(args.correct)[0]; }

  // Each term carries at most 4 ulp (exp, log1p and two sums, or exp and a product); soft targets
  // of the softmax loss sum to classes / 2, and so may a gradient's two terms.
  void ExpectNearCpu(const LossProblem& p) const {
    pair.ExpectNear(args.loss_sum, 0x1p-20, 2e-6);
    pair.ExpectSameBits(args.correct);
    if (!args.grad_logits.present()) return;
    const double size = p.kind == LabelKind::kDense ? static_cast<double>(p.classes) : 1.0;
    pair.ExpectNear(args.grad_logits, 2 * HalfUlp(args.grad_logits.dtype) + 0x1p-20,
                    0x1p-21 * size);
  }
};

TEST(LossCudaTest, MatchesTheCpuForEveryLabelKindAndWidth) {
  for (const TestLoss loss : kEveryLoss) {
    for (const LabelKind kind : kEveryLabelKind) {
      for (const int64_t classes : {1, 2, 4, 10, 100, 127, 132, 1024, 3000, 3001}) {
        SCOPED_TRACE(testing::Message() << "loss " << static_cast<int>(loss) << ", kind "
                                        << static_cast<int>(kind) << ", classes " << classes);
        const LossProblem p = MakeLossProblem(kind, 5, classes, classes % 2 == 0);
        const LossPair run(p, loss, classes % 4 == 0 ? DType::kBf16 : DType::kF32);
        run.ExpectNearCpu(p);
        EXPECT_THAT(run.pair.variant(), StartsWith(classes % 4 == 0 ? "vector" : "simple: "));
      }
    }
  }
}

TEST(LossCudaTest, EveryGradientTypeAndNoneInBothVariants) {
  for (const TestLoss loss : kEveryLoss) {
    for (const int64_t classes : {20, 21}) {
      for (const DType grad : {DType::kBf16, DType::kF32, kNoGradient}) {
        for (const bool accumulate : {false, true}) {
          const LossProblem p = MakeLossProblem(LabelKind::kSparse, 9, classes, true);
          LossPair(p, loss, grad, accumulate).ExpectNearCpu(p);
        }
      }
    }
  }
}

TEST(LossCudaTest, OneImageAndManyImagesAreSummed) {
  for (const TestLoss loss : kEveryLoss) {
    for (const int64_t batch : {1, 300}) {  // 300: more than the threads that add
      const LossProblem p = MakeLossProblem(LabelKind::kClassId, batch, 12, false);
      LossPair(p, loss, DType::kBf16, true).ExpectNearCpu(p);
    }
  }
}

TEST(LossCudaTest, PaddingIsNeverCountedWhateverItHolds) {
  for (const TestLoss loss : kEveryLoss) {
    LossProblem p =
        MakeLossProblem(LabelKind::kClassId, 6, 20, true);  // images 1 and 4 are padding
    const LossPair clean(p, loss, DType::kF32);
    for (int64_t c = 0; c < 20; ++c) p.logits[1 * 20 + c] = NAN, p.logits[4 * 20 + c] = INFINITY;
    p.ids[1] = -1, p.ids[4] = 1 << 30;
    const LossPair run(p, loss, DType::kF32);
    EXPECT_EQ(run.loss(), clean.loss());
    EXPECT_EQ(run.correct(), clean.correct());
    EXPECT_EQ(run.pair.Cuda(run.args.grad_logits), clean.pair.Cuda(clean.args.grad_logits));
    for (int64_t c = 0; c < 20; ++c) EXPECT_EQ(run.pair.Cuda(run.args.grad_logits)[20 + c], 0.0);
  }
}

TEST(LossCudaTest, FirstOfEqualLogitsIsTheAnswer) {
  for (const TestLoss loss : kEveryLoss) {
    for (const int64_t classes : {1300, 1301}) {
      LossProblem p = MakeLossProblem(LabelKind::kClassId, 4, classes, false);
      p.logits.assign(p.logits.size(), -1.0);
      p.ids = {5, 0, 1250, 0};
      p.logits[0 * classes + 5] = p.logits[0 * classes + 1200] = 2.0;   // first is 5: right
      p.logits[2 * classes + 29] = p.logits[2 * classes + 1250] = 2.0;  // first is 29: wrong
      for (int64_t c = 0; c < classes; ++c) p.logits[3 * classes + c] = -0.0;
      p.logits[3 * classes + 7] = 0.0;                                       // no greater than -0
      EXPECT_EQ(LossPair(p, loss, kNoGradient).correct(), 1003.0 - 1000.0);  // image 1: first is 0
    }
  }
}

TEST(LossCudaTest, LargeLogitsNeitherOverflowNorLoseTheRightAnswer) {
  for (const TestLoss loss : kEveryLoss) {
    LossProblem p = MakeLossProblem(LabelKind::kClassId, 2, 3, false);
    p.ids = {0, 0};
    p.logits = {20.0, -20.0, -21.0, -3e38, 3e38, 0.0};
    const LossPair run(p, loss, DType::kF32);
    run.pair.ExpectNear(run.args.loss_sum, 0x1p-21, 0);
    run.pair.ExpectNear(run.args.grad_logits, 0x1p-20, 4e-38);
    p.logits = {20.0, -20.0, -21.0, 20.0, -20.0, -21.0};  // both right: what is left is not lost
    const LossPair right(p, loss, DType::kF32);
    right.pair.ExpectNear(right.args.loss_sum, 0x1p-20, loss == TestLoss::kSoftmax ? 2e-15 : 0);
    right.pair.ExpectNear(right.args.grad_logits, 0x1p-20, 4e-38);
  }
}

TEST(LossCudaTest, MinusInfinityIsAClassThatCannotBe) {
  for (const int64_t classes : {1040, 41}) {
    LossProblem p = MakeLossProblem(LabelKind::kClassId, 3, classes, false);
    p.ids = {1, 1, 1};
    for (int64_t c = 8; c < classes; ++c) p.logits[c] = -1e30;
    const LossPair want(p, TestLoss::kSoftmax, DType::kF32);
    want.ExpectNearCpu(p);
    for (int64_t c = 8; c < classes; ++c) p.logits[c] = -INFINITY;
    const LossPair run(p, TestLoss::kSoftmax, DType::kF32);
    EXPECT_EQ(run.loss(), want.loss());
    EXPECT_EQ(run.pair.Cuda(run.args.grad_logits), want.pair.Cuda(want.args.grad_logits));
  }
}

// Beside a label, where y z would be 0 * -inf; soft labels too, and both losses.
TEST(LossCudaTest, MinusInfinityBesideALabelCountsAsZeroAsOnTheCpu) {
  for (const TestLoss loss : kEveryLoss) {
    for (const LabelKind kind : kEveryLabelKind) {
      for (const int64_t classes : {1040, 41}) {
        LossProblem p = MakeLossProblem(kind, 4, classes, false);
        for (double& y : p.dense) y = y < 0.5 ? 0.0 : y;
        for (int64_t b = 0; b < 4; ++b) MakeImpossible(p, b);
        const LossPair run(p, loss, DType::kF32);
        EXPECT_TRUE(std::isfinite(run.loss()));
        run.ExpectNearCpu(p);
      }
    }
  }
}

TEST(LossCudaTest, NaNLogitsAndWrongIdsMakeTheLossNaN) {
  for (const TestLoss loss : kEveryLoss) {
    for (const int64_t classes : {12, 10}) {
      LossProblem p = MakeLossProblem(LabelKind::kClassId, 4, classes, false);
      p.logits[25] = NAN;
      EXPECT_TRUE(std::isnan(LossPair(p, loss, DType::kBf16).loss()));
      for (const double id : {-1.0, static_cast<double>(classes), 2147483647.0, -2147483648.0}) {
        LossProblem wrong = MakeLossProblem(LabelKind::kClassId, 4, classes, false);
        wrong.ids[2] = id;
        EXPECT_TRUE(std::isnan(LossPair(wrong, loss, DType::kF32).loss())) << id;
      }
    }
  }
}

}  // namespace
}  // namespace vitscale
