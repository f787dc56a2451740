// Padded rows of logits on CUDA against the CPU.

#include <cmath>

#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/kernels/padded_head.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

class PaddedLogitsCudaTest : public testing::TestWithParam<DType> {
 protected:
  PaddedHead Head(int64_t classes) const { return {33, 40, classes, true, GetParam()}; }
};
INSTANTIATE_TEST_SUITE_P(ComputeDType, PaddedLogitsCudaTest,
                         testing::Values(DType::kBf16, DType::kF32),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

// Sums of `terms` exact products of values of deviation 1 and `deviation` (at most 6 of them each),
// in any order on either side.
double Bound(int64_t terms, double deviation) {
  return 2 * static_cast<double>(terms + 3) * 0x1p-24 * 36 * deviation * static_cast<double>(terms);
}

TEST_P(PaddedLogitsCudaTest, HoldWhatTheCpuGives) {
  for (const int64_t classes : kPaddedClasses) {
    SCOPED_TRACE(classes);
    OpPair pair(GetParam());
    const LinearArgs args = Head(classes).Forward(pair);
    ASSERT_THAT(pair.Run(args), IsOk());
    ExpectNear(WithoutPadding(pair.Cuda(args.y), classes),
               WithoutPadding(pair.Cpu(args.y), classes), 0, Bound(40, 0.2));
  }
}

TEST_P(PaddedLogitsCudaTest, GradientsBehindThemAreThoseOfTheCpu) {
  for (const int64_t classes : kPaddedClasses) {
    for (const bool full_precision : {false, true}) {
      SCOPED_TRACE(classes);
      OpPair pair(GetParam());
      LinearGradInputArgs input = Head(classes).GradInput(pair);
      LinearGradWeightArgs weight = Head(classes).GradWeight(pair);
      input.full_precision = weight.full_precision = full_precision;
      Program program;
      program.Add(input);
      program.Add(weight);
      ASSERT_THAT(pair.RunProgram(program), IsOk());
      pair.ExpectNear(input.grad_x, 0, Bound(classes, 0.2));
      pair.ExpectNear(weight.grad_weight[0], 0, Bound(33, 1));
      pair.ExpectNear(weight.grad_bias[0], 0, Bound(33, 1));
    }
  }
}

TEST(PaddedLossCudaTest, NeverCountsWhatPaddingHoldsAndWritesZerosToItsGradient) {
  for (const TestLoss loss : kEveryLoss) {
    for (const LabelKind kind : kEveryLabelKind) {
      for (const int64_t classes : kPaddedClasses) {
        for (const double padding : {static_cast<double>(INFINITY), std::nan("")}) {
          SCOPED_TRACE(testing::Message() << classes << " classes, padding " << padding);
          LossProblem p = MakeLossProblem(kind, 7, classes, /*valid=*/true);
          p.padded = true;
          p.padding = padding;
          const DType grad = classes % 2 == 0 ? DType::kBf16 : DType::kF32;
          OpPair pair(grad);
          const LossArgs args = AddLossOperands(p, grad, pair);
          ASSERT_THAT(RunLoss(args, loss, pair), IsOk());
          // As for dense rows: loss_cuda_test.cc.
          const double size = kind == LabelKind::kDense ? static_cast<double>(classes) : 1.0;
          pair.ExpectNear(args.loss_sum, 0x1p-20, 2e-6);
          pair.ExpectSameBits(args.correct);
          pair.ExpectNear(args.grad_logits, 2 * HalfUlp(grad) + 0x1p-20, 0x1p-21 * size);
          const Doubles ours = pair.Cuda(args.grad_logits);
          EXPECT_EQ(ours, PaddedRows(WithoutPadding(ours, classes), classes, 0.0));
        }
      }
    }
  }
}

TEST(PaddedLossCudaTest, TakesAnyNumberOfClassesFourAtATimeUnlessLabelsAreDense) {
  for (const LabelKind kind : kEveryLabelKind) {
    LossProblem p = MakeLossProblem(kind, 3, 29, false);
    p.padded = true;
    OpPair pair(DType::kBf16);
    ASSERT_THAT(RunLoss(AddLossOperands(p, DType::kBf16, pair), TestLoss::kSigmoid, pair), IsOk());
    EXPECT_THAT(pair.variant(),
                testing::StartsWith(kind == LabelKind::kDense ? "simple: " : "vector"));
  }
}

TEST(PaddedLossCudaTest, ALabelInThePaddingIsAWrongOne) {
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 3, 10, false);
  p.padded = true;
  p.ids[1] = 10;
  OpPair pair(DType::kF32);
  const LossArgs args = AddLossOperands(p, DType::kF32, pair);
  ASSERT_THAT(RunLoss(args, TestLoss::kSigmoid, pair), IsOk());
  EXPECT_TRUE(std::isnan(pair.Cuda(args.loss_sum)[0]));
  const Doubles grad = pair.Cuda(args.grad_logits);
  EXPECT_EQ(grad, PaddedRows(WithoutPadding(grad, 10), 10, 0.0));
}

}  // namespace
}  // namespace vitscale
