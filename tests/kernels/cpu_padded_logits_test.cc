// Padded rows of logits: nothing but the place of what they hold is different.

#include <cmath>
#include <string>

#include "tests/kernels/padded_head.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

class PaddedLogitsTest : public testing::TestWithParam<Variant> {
 protected:
  PaddedHead Head(int64_t rows, int64_t classes, bool padded) const {
    return {rows, 40, classes, padded, GetParam().dtype};
  }
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, PaddedLogitsTest, testing::ValuesIn(AllVariants()),
                         VariantName);

TEST_P(PaddedLogitsTest, HoldTheBitsOfDenseOnes) {
  for (const int64_t rows : {3, 400}) {  // few rows go by tiles, many by oneDNN
    for (const int64_t classes : kPaddedClasses) {
      SCOPED_TRACE(testing::Message() << rows << " rows, " << classes << " classes");
      OpBench dense(GetParam()), padded(GetParam());
      const LinearArgs want = Head(rows, classes, false).Forward(dense);
      const LinearArgs got = Head(rows, classes, true).Forward(padded);
      ASSERT_THAT(dense.Run(want), IsOk());
      ASSERT_THAT(padded.Run(got), IsOk());
      EXPECT_EQ(WithoutPadding(padded.Values(got.y), classes), dense.Values(want.y));
    }
  }
}

TEST_P(PaddedLogitsTest, GradientsBehindThemAreThoseBehindDenseOnes) {
  for (const int64_t rows : {3, 400}) {
    for (const int64_t classes : kPaddedClasses) {
      for (const bool full_precision : {false, true}) {
        SCOPED_TRACE(testing::Message() << rows << " rows, " << classes << " classes");
        OpBench dense(GetParam()), padded(GetParam());
        LinearGradInputArgs want = Head(rows, classes, false).GradInput(dense);
        LinearGradInputArgs got = Head(rows, classes, true).GradInput(padded);
        LinearGradWeightArgs want_w = Head(rows, classes, false).GradWeight(dense);
        LinearGradWeightArgs got_w = Head(rows, classes, true).GradWeight(padded);
        want.full_precision = got.full_precision = full_precision;
        want_w.full_precision = got_w.full_precision = full_precision;
        ASSERT_THAT(dense.Run(want), IsOk());
        ASSERT_THAT(padded.Run(got), IsOk());
        EXPECT_EQ(padded.Values(got.grad_x), dense.Values(want.grad_x));
        ASSERT_THAT(dense.Run(want_w), IsOk());
        ASSERT_THAT(padded.Run(got_w), IsOk());
        EXPECT_EQ(padded.Values(got_w.grad_weight[0]), dense.Values(want_w.grad_weight[0]));
        EXPECT_EQ(padded.Values(got_w.grad_bias[0]), dense.Values(want_w.grad_bias[0]));
      }
    }
  }
}

TEST_P(PaddedLogitsTest, LossNeverCountsWhatPaddingHoldsAndWritesZerosToItsGradient) {
  for (const TestLoss loss : kEveryLoss) {
    for (const LabelKind kind : kEveryLabelKind) {
      for (const int64_t classes : kPaddedClasses) {
        SCOPED_TRACE(testing::Message() << classes << " classes");
        LossProblem p = MakeLossProblem(kind, 7, classes, /*valid=*/true);
        OpBench dense(GetParam());
        const LossArgs want = AddLossOperands(p, GetParam().dtype, dense);
        ASSERT_THAT(RunLoss(want, loss, dense), IsOk());
        p.padded = true;
        for (const double padding : {0.0, 1e30, static_cast<double>(INFINITY), std::nan("")}) {
          p.padding = padding;
          OpBench padded(GetParam());
          const LossArgs got = AddLossOperands(p, GetParam().dtype, padded);
          ASSERT_THAT(RunLoss(got, loss, padded), IsOk());
          EXPECT_EQ(padded.Values(got.loss_sum), dense.Values(want.loss_sum));
          EXPECT_EQ(padded.Values(got.correct), dense.Values(want.correct));
          EXPECT_EQ(padded.Values(got.grad_logits),
                    PaddedRows(dense.Values(want.grad_logits), classes, 0.0));
        }
      }
    }
  }
}

TEST_P(PaddedLogitsTest, ALabelInThePaddingIsAWrongOne) {
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 3, 10, false);
  p.padded = true;
  p.ids[1] = 10;
  OpBench bench(GetParam());
  const LossArgs args = AddLossOperands(p, DType::kF32, bench);
  ASSERT_THAT(RunLoss(args, TestLoss::kSigmoid, bench), IsOk());
  EXPECT_TRUE(std::isnan(bench.Values(args.loss_sum)[0]));
}

TEST_P(PaddedLogitsTest, OtherWidthsAndOtherOpsAreRefused) {
  OpBench bench(GetParam());
  LinearArgs linear = Head(3, 10, true).Forward(bench);
  linear.y.shape[1] = 15;
  EXPECT_THAT(bench.Run(linear),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is [3, 15], want [3, 10]")));
  linear.y.shape[1] = 16;
  linear.epilogue = LinearEpilogue::kGelu;
  EXPECT_THAT(bench.Run(linear),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is [3, 16], want [3, 10]")));
  LossProblem p = MakeLossProblem(LabelKind::kClassId, 3, 10, false);
  p.padded = true;
  for (const int64_t classes : {-1, 8, 17}) {
    LossArgs args = AddLossOperands(p, DType::kF32, bench);
    args.classes = classes;
    EXPECT_THAT(RunLoss(args, TestLoss::kSoftmax, bench),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(absl::StrCat("classes is ", classes, ", want"))));
  }
}

}  // namespace
}  // namespace vitscale
