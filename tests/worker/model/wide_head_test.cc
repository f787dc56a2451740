// A head that is wide goes piece by piece: the same step as with all logits at once, but for the
// order in which the classifier's own gradients are summed.

#include <cmath>

#include "tests/worker/model/replica.h"

namespace vitscale {
namespace {

constexpr int64_t kImages = 130;  // pieces of 64, 64 and 2

PlanRequest WideHead(PoolKind pool, LossKind loss, int representation) {
  PlanRequest request;
  request.model.SetShape({4, 32, 1, 2, 48});
  request.model.image_size = 8;
  request.model.channels = 1;
  request.model.classes = 7;
  request.model.pool = pool;
  request.model.loss = loss;
  request.model.representation_size = representation;
  request.source_height = request.source_width = 8;
  request.batch_micro = kImages;
  request.batch_global = 2 * kImages;
  return request;
}

void Scatter(Replica& replica) {
  ASSERT_THAT(InitializeParameters(replica.plan.layout.table, 3, replica.Parameters()), IsOk());
  Draws draws(3, DrawPurpose::kTest, 1, 0);
  for (float& value : replica.Parameters()) value += static_cast<float>(0.2 * draws.Normal());
  replica.PrepareWeights();
}

using Case = std::tuple<PoolKind, LossKind, int /*representation*/>;
class WideHeadTest : public testing::TestWithParam<Case> {
 protected:
  static PlanRequest Request(bool in_pieces) {
    PlanRequest request = std::apply(WideHead, GetParam());
    if (in_pieces) request.logit_bytes_max = 1;
    return request;
  }
};
INSTANTIATE_TEST_SUITE_P(EveryHead, WideHeadTest,
                         testing::Combine(testing::Values(PoolKind::kMap, PoolKind::kGap),
                                          testing::Values(LossKind::kSigmoid, LossKind::kSoftmax),
                                          testing::Values(0, 24)));

TEST_P(WideHeadTest, StepInPiecesIsTheStepWithAllLogitsAtOnce) {
  Replica whole(Request(false)), pieces(Request(true));
  ASSERT_EQ(whole.plan.layout.head_rows, kImages);
  ASSERT_EQ(pieces.plan.layout.head_rows, 64);
  Scatter(whole);
  Scatter(pieces);
  const TestBatch batch = MakeTestBatch(whole.plan.request, 2 * kImages, 5);
  EXPECT_EQ(pieces.Step(batch), whole.Step(batch));
  EXPECT_EQ(pieces.Scalar<int64_t>(pieces.plan.layout.statistics.correct),
            whole.Scalar<int64_t>(whole.plan.layout.statistics.correct));
  for (const Parameter& p : whole.plan.layout.table.parameters()) {
    const absl::Span<const float> want = whole.GradientOf(p), got = pieces.GradientOf(p);
    // Sums of 130 products in f32: 130 roundings of at most half a unit of the greatest partial
    // sum.
    double most = 0;
    for (const float value : want) most = std::max(most, double{std::abs(value)});
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], 260 * 0x1p-24 * most) << p.name << " " << i;
    }
  }
  EXPECT_EQ(pieces.Eval(batch), whole.Eval(batch));
}

TEST_P(WideHeadTest, NothingButTheHeadDependsOnThePieces) {
  Replica whole(Request(false)), pieces(Request(true));
  Scatter(whole);
  Scatter(pieces);
  const TestBatch batch = MakeTestBatch(whole.plan.request, 2 * kImages, 6);
  whole.Step(batch);
  pieces.Step(batch);
  for (const Parameter& p : whole.plan.layout.table.parameters()) {
    if (p.name == "head/kernel" || p.name == "head/bias") continue;
    EXPECT_EQ(pieces.GradientOf(p), whole.GradientOf(p)) << p.name;
  }
}

TEST(WideHeadPlanTest, PiecesChangeTheHashSinceTheyChangeBits) {
  PlanRequest request = WideHead(PoolKind::kMap, LossKind::kSigmoid, 0);
  const uint64_t whole = MakePlan(request).value().hash;
  request.logit_bytes_max = 1;
  EXPECT_NE(MakePlan(request).value().hash, whole);
}

}  // namespace
}  // namespace vitscale
