// What the plan says of a card against the backend: bytes that it comes to hold, and the step of a
// wide head that goes piece by piece.

#include <cmath>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/backend_factory.h"
#include "kernels/base/philox.h"
#include "tests/cuda_on_cpu/op_pair.h"
#include "tests/status_matchers.h"
#include "worker/model/vit.h"
#include "worker/plan/card_bytes.h"
#include "worker/plan/plan.h"

namespace vitscale {
namespace {

std::unique_ptr<Backend> Allocated(const BackendMaker& make, const Plan& plan) {
  std::unique_ptr<Backend> backend = make().value();
  EXPECT_THAT(backend->Allocate(plan.arena_bytes), IsOk());
  EXPECT_THAT(WriteConstants(plan.layout, *backend), IsOk());
  return backend;
}

// ---- bytes -------------------------------------------------------------------

using BytesCase = std::tuple<PoolKind, Precision, OptimizerKind, RecomputeLevel>;
class CardBytesCudaTest : public testing::TestWithParam<BytesCase> {};
INSTANTIATE_TEST_SUITE_P(
    EveryModel, CardBytesCudaTest,
    testing::Combine(testing::Values(PoolKind::kMap, PoolKind::kCls),
                     testing::Values(Precision::kBf16, Precision::kF32),
                     testing::Values(OptimizerKind::kAdafactor, OptimizerKind::kAdamW),
                     testing::Values(RecomputeLevel::kNone, RecomputeLevel::kBlock)));

// Wide enough that what is planned is more than tables and alignment.
PlanRequest Wide() {
  PlanRequest request;
  request.device = DeviceKind::kCuda;
  request.model.SetShape({.patch = 16, .width = 256, .depth = 3, .heads = 4, .mlp_width = 1024});
  request.model.image_size = 64;
  request.model.classes = 100;
  request.batch_micro = 16;
  request.feature_programs = 1;
  return request;
}

TEST_P(CardBytesCudaTest, CopiesAndWorkspaceAreAsPlanned) {
  PlanRequest request = Wide();
  std::tie(request.model.pool, request.precision, request.optimizer, request.recompute) =
      GetParam();
  const Plan plan = MakePlan(request).value();
  const auto backend = Allocated(CudaBackendMaker(ComputeDType(request.precision)), plan);
  OptimizerConfig optimizer;
  optimizer.kind = request.optimizer;
  std::vector<std::unique_ptr<PreparedProgram>> programs;
  for (const Program& program :
       {BuildStep(plan.layout, {true, true}), BuildEval(plan.layout, true),
        BuildFeatures(plan.layout).program, BuildUpdate(plan.layout, optimizer)}) {
    auto prepared = backend->Prepare(program);
    ASSERT_THAT(prepared.status(), IsOk());
    programs.push_back(*std::move(prepared));
  }
  const BackendMemory memory = backend->memory();
  // Tables of tensors, and the rounding of each of some thirty allocations, are not planned.
  constexpr double kSlack = 96 << 10;
  const auto held = static_cast<double>(memory.compute_weights);
  EXPECT_NEAR(static_cast<double>(plan.compute_weight_bytes), held, 0.01 * held + kSlack);
  const auto reserved = static_cast<double>(memory.workspace);
  EXPECT_GT(reserved, kSlack);
  EXPECT_NEAR(static_cast<double>(plan.workspace_bytes), reserved, 0.1 * reserved + kSlack);
}

// ---- wide heads --------------------------------------------------------------

constexpr int64_t kImages = 70;  // pieces of 64 and 6

PlanRequest WideHead(PoolKind pool, LossKind loss, LabelKind labels, bool in_pieces) {
  PlanRequest request;
  request.device = DeviceKind::kCuda;
  request.model.SetShape({.patch = 4, .width = 32, .depth = 1, .heads = 2, .mlp_width = 48});
  request.model.image_size = 4;
  request.model.channels = 1;
  request.model.classes = 9;
  request.model.pool = pool;
  request.model.loss = loss;
  request.labels = labels;
  request.sparse_labels_per_image = 2;
  request.batch_micro = kImages;
  if (in_pieces) request.logit_bytes_max = 1;
  return request;
}

// A step of one micro-batch and an evaluation on one backend, from inputs drawn from a seed.
class StepRun {
 public:
  StepRun(const PlanRequest& request, const BackendMaker& make)
      : plan(MakePlan(request).value()), backend_(Allocated(make, plan)) {
    Draws draws(5, DrawPurpose::kTest, 0, 0);
    std::vector<float> parameters(plan.layout.table.arena_elements());
    for (float& value : parameters) value = static_cast<float>(0.3 * draws.Normal());
    Write({"parameters",
           Arena::kParameters,
           0,
           DType::kF32,
           {static_cast<int64_t>(parameters.size())}},
          parameters);
    WriteImages(draws);
    WriteLabels(draws);
    RunOne(BuildStep(plan.layout, {true, true}));
    RunOne(BuildEval(plan.layout, true));
  }

  double Loss() const { return ReadAs<double>(plan.layout.statistics.loss_sum)[0]; }
  double EvalLoss() const { return ReadAs<double>(plan.layout.statistics.eval_loss_sum)[0]; }
  int64_t Correct() const { return ReadAs<int64_t>(plan.layout.statistics.correct)[0]; }
  std::vector<float> Gradient(const Parameter& p) const {
    return ReadAs<float>(plan.layout.table.GradientView(p));
  }

  const Plan plan;

 private:
  void RunOne(Program program) {
    auto prepared = backend_->Prepare(std::move(program));
    ASSERT_THAT(prepared.status(), IsOk());
    ASSERT_THAT(backend_->Run(**prepared, {}, nullptr), IsOk());
  }
  template <typename T>
  void Write(const TensorView& view, const std::vector<T>& values) {
    ASSERT_THAT(backend_->Write(view, {reinterpret_cast<const std::byte*>(values.data()),
                                       values.size() * sizeof(T)}),
                IsOk());
  }
  template <typename T>
  std::vector<T> ReadAs(const TensorView& view) const {
    std::vector<T> values(view.elements());
    EXPECT_THAT(backend_->Read(
                    view, {reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(T)}),
                IsOk());
    return values;
  }
  void WriteImages(Draws& draws) {
    const InputViews& input = plan.layout.input;
    std::vector<uint8_t> images(input.images.bytes());
    for (uint8_t& pixel : images) pixel = static_cast<uint8_t>(draws.Below(256));
    Write(input.images, images);
    std::vector<float> valid(kImages, 1.0f);
    valid[3] = valid[65] = 0.0f;
    Write(input.valid, valid);
  }
  void WriteLabels(Draws& draws) {
    const Labels& labels = plan.layout.input.labels;
    if (labels.kind == LabelKind::kDense) {
      std::vector<float> dense(labels.dense.elements());
      for (float& value : dense) value = static_cast<float>(draws.Below(4)) / 4;
      return Write(labels.dense, dense);
    }
    std::vector<int32_t> ids(labels.ids.elements());
    for (int32_t& id : ids) id = static_cast<int32_t>(draws.Below(9));
    Write(labels.ids, ids);
    if (labels.kind != LabelKind::kSparse) return;
    std::vector<int32_t> offsets = {0};
    for (int32_t i = 0; i < kImages; ++i) offsets.push_back(offsets.back() + 1 + i % 3 / 2);
    Write(labels.offsets, offsets);
  }

  std::unique_ptr<Backend> backend_;
};

using HeadCase = std::tuple<PoolKind, LossKind, LabelKind>;
class WideHeadCudaTest : public testing::TestWithParam<HeadCase> {
 protected:
  static PlanRequest Request(bool in_pieces) {
    const auto& [pool, loss, labels] = GetParam();
    return WideHead(pool, loss, labels, in_pieces);
  }
};
INSTANTIATE_TEST_SUITE_P(
    EveryHead, WideHeadCudaTest,
    testing::Values(HeadCase{PoolKind::kMap, LossKind::kSigmoid, LabelKind::kClassId},
                    HeadCase{PoolKind::kGap, LossKind::kSoftmax, LabelKind::kSparse},
                    HeadCase{PoolKind::kMap, LossKind::kSoftmax, LabelKind::kDense}));

void ExpectSameStep(const StepRun& got, const StepRun& want) {
  EXPECT_NEAR(got.Loss(), want.Loss(), 1e-6 * std::abs(want.Loss()));
  EXPECT_NEAR(got.EvalLoss(), want.EvalLoss(), 1e-6 * std::abs(want.EvalLoss()));
  EXPECT_EQ(got.Correct(), want.Correct());
  for (const Parameter& p : want.plan.layout.table.parameters()) {
    if (p.is_key_bias) continue;  // its gradient is 0 but for rounding
    const std::vector<float> a = got.Gradient(p), b = want.Gradient(p);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += std::pow(double{a[i]} - double{b[i]}, 2);
      norm += std::pow(double{b[i]}, 2);
    }
    // Sums of 70 images in another order, behind a dozen products: well below 2^-16.
    EXPECT_LE(std::sqrt(difference), 0x1p-16 * std::sqrt(norm)) << p.name;
  }
}

TEST_P(WideHeadCudaTest, StepInPiecesIsThatOfTheCpuAndThatWithAllLogitsAtOnce) {
  const BackendMaker cuda = CudaBackendMaker(DType::kF32);
  const BackendMaker cpu = [] { return CreateBackend(BackendOptions{.threads = 1}); };
  const StepRun pieces(Request(true), cuda);
  ASSERT_EQ(pieces.plan.layout.head_rows, 64);
  ExpectSameStep(pieces, StepRun(Request(false), cuda));
  ExpectSameStep(pieces, StepRun(Request(true), cpu));
}

}  // namespace
}  // namespace vitscale
