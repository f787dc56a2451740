// CheckProgram: what holds for programs as a whole. The shapes of single ops are tested beside the
// ops.

#include <string>

#include "kernels/backend.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

TensorView View(const std::string& name, int64_t offset, Shape shape, DType dtype = DType::kF32) {
  return {name, Arena::kActivations, offset, dtype, std::move(shape)};
}
void ExpectRejected(const Program& program, const std::string& message) {
  EXPECT_THAT(CheckProgram(program),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
}

TEST(CheckProgramTest, EveryOpHasItsName) {
  EXPECT_STREQ(OpName(LayerNormGradArgs{}), "LayerNormGrad");
  EXPECT_STREQ(OpName(ImagesToPatchesArgs{}), "ImagesToPatches");
  EXPECT_STREQ(OpName(PhaseArgs{}), "Phase");
  EXPECT_STREQ(OpName(CastArgs{}), "Cast");
}

TEST(CheckProgramTest, AnEmptyProgramIsFine) { EXPECT_THAT(CheckProgram(Program()), IsOk()); }

TEST(CheckProgramTest, AbsentOperandsAreNamedWithTheIndexOfTheOp) {
  Program program;
  program.Add(PhaseArgs{"forward"});
  program.Add(LayerNormArgs{});
  ExpectRejected(program, "op 1 LayerNorm: x is absent, want [any, any]");
}

TEST(CheckProgramTest, DimensionsMustBePositiveAndNotOverflow) {
  Program program;
  program.Add(FillArgs{View("y", 0, {3, 0})});
  ExpectRejected(program, "op 0 Fill: y is [3, 0], want positive dimensions");
  Program huge;
  huge.Add(FillArgs{View("y", 0, {int64_t{1} << 40, int64_t{1} << 40})});
  ExpectRejected(huge, "want positive dimensions");
}

TEST(CheckProgramTest, PanelGroupsBeginAndEndInPairs) {
  Program open, closed, nested;
  open.Add(PanelBeginArgs{4});
  ExpectRejected(open, "the program ends inside a panel group, want PanelEnd");
  closed.Add(PanelEndArgs{});
  ExpectRejected(closed, "op 0 PanelEnd: has no PanelBegin before it");
  nested.Add(PanelBeginArgs{4});
  nested.Add(PanelBeginArgs{4});
  ExpectRejected(nested, "op 1 PanelBegin: stands inside a panel group");
}

TEST(CheckProgramTest, WholeBatchOpsStandOutsideGroups) {
  Program program;
  program.Add(PanelBeginArgs{2});
  program.Add(FillArgs{View("y", 0, {4})});
  ExpectRejected(program, "op 1 Fill: stands inside a panel group, want it after PanelEnd");
}

TEST(CheckProgramTest, RowsOfAGroupAreWholeImages) {
  Program program;
  program.Add(PanelBeginArgs{4});
  program.Add(TanhArgs{View("x", 0, {6, 8}), View("y", 1024, {6, 8})});
  ExpectRejected(program,
                 "op 1 Tanh: x has 6 rows, want a multiple of 4, the batch of its panel group");
  Program pooled;
  pooled.Add(PanelBeginArgs{4});
  MeanPoolArgs pool;
  pool.x = View("x", 0, {6, 8}), pool.batch = 2, pool.tokens = 3, pool.y = View("y", 1024, {2, 8});
  pooled.Add(pool);
  ExpectRejected(pooled, "op 1 MeanPool: batch is 2, want 4, the batch of its panel group");
}

TEST(CheckProgramTest, TensorsOfAGroupMayBeOneButMustNotOverlap) {
  const TensorView x = View("x", 0, {4, 16});
  Program same, overlapping;
  same.Add(PanelBeginArgs{4});
  same.Add(TanhArgs{x, x});
  same.Add(PanelEndArgs{});
  EXPECT_THAT(CheckProgram(same), IsOk());
  overlapping.Add(PanelBeginArgs{4});
  overlapping.Add(TanhArgs{x, View("y", 128, {4, 16})});
  overlapping.Add(PanelEndArgs{});
  ExpectRejected(overlapping, "panel group: y lies in the memory of x at activations+128");
}

TEST(CheckProgramTest, WhatIsComputedAgainNeedsWhatItIsMadeOf) {
  LinearGradInputArgs linear;
  linear.grad_y = View("grad_y", 0, {4, 16}), linear.grad_x = View("grad_x", 1024, {4, 16});
  linear.weight = {{"weight", Arena::kParameters, 0, DType::kF32, {16, 16}}};
  linear.activation = View("hidden", 2048, {4, 16});
  Program without_pre_activation;
  without_pre_activation.Add(linear);
  ExpectRejected(without_pre_activation,
                 "op 0 LinearGradInput: activation is present, want absent: pre_activation is");
  LayerNormGradArgs norm;
  norm.grad_y = View("grad_y", 0, {4, 16}), norm.x = View("x", 256, {4, 16});
  norm.mean = View("mean", 512, {4}), norm.inv_std = View("inv_std", 576, {4});
  norm.gamma = View("gamma", 640, {16}), norm.grad_x = View("grad_x", 704, {4, 16});
  norm.grad_gamma = View("grad_gamma", 960, {16}), norm.grad_beta = View("grad_beta", 1024, {16});
  norm.y = View("y", 1088, {4, 16});
  Program without_beta;
  without_beta.Add(norm);
  ExpectRejected(without_beta,
                 "op 0 LayerNormGrad: one of y and beta is absent, want both or neither");
}

TEST(CheckProgramTest, FactoringMustNameTheTwoLargestAxes) {
  OptimizedTensor tensor;
  tensor.parameter = View("kernel", 0, {4, 64, 32});
  tensor.gradient = View("kernel", 0, {4, 64, 32});
  tensor.factoring = {true, 2, 1};
  Program program;
  GradStatsArgs stats;
  stats.tensors = {tensor};
  stats.gradient_square_sum = {"norm", Arena::kStatistics, 0, DType::kF64, {1}};
  program.Add(stats);
  ExpectRejected(program,
                 "op 0 GradStats: tensors[0].factoring has axes d0 = 2, d1 = 1, want the two "
                 "largest, 1 and 2");
}

TEST(VisitOperandsTest, GivesPresentOperandsAndWhetherTheyAreWritten) {
  ResidualLayerNormArgs args;
  args.x = View("x", 0, {1, 1}), args.sum = View("sum", 64, {1, 1}),
  args.y = View("y", 128, {1, 1});
  Op op = args;
  std::string seen;
  VisitOperands(op, &seen, [](void* context, TensorView& view, bool written) {
    *static_cast<std::string*>(context) += view.name + (written ? "! " : " ");
  });
  EXPECT_EQ(seen, "x sum! y! ");
}

}  // namespace
}  // namespace vitscale
