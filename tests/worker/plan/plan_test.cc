#include "worker/plan/plan.h"

#include <numeric>

#include "tests/status_matchers.h"
#include "worker/model/vit.h"
#include "worker/plan/cost.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

PlanRequest Request(const std::string& variant, int classes = 1000, int64_t batch = 32) {
  PlanRequest request;
  request.model.SetShape(VariantByName(variant).value());
  request.model.classes = classes;
  request.precision = Precision::kBf16;
  request.batch_micro = batch;
  return request;
}
Plan Planned(const PlanRequest& request) { return MakePlan(request).value(); }
int64_t Bytes(const Plan& plan, Arena arena) { return plan.arena_bytes[static_cast<int>(arena)]; }

// ---- FLOPs -------------------------------------------------------------------

// GF of arXiv 2106.04560 table 2, at 224 and 384.
constexpr struct {
  const char* name;
  double gf_224, gf_384;
} kPaperFlops[] = {{"s/28", 0.7, 2.0},      {"s/16", 2.2, 7.8},     {"S/32", 2.3, 6.9},
                   {"Ti/16", 2.5, 9.5},     {"B/32", 8.7, 26.0},    {"S/16", 9.2, 31.2},
                   {"B/28", 11.3, 30.5},    {"B/16", 35.1, 111.3},  {"L/16", 122.9, 382.8},
                   {"g/14", 533.1, 1596.4}, {"G/14", 965.3, 2859.9}};

TEST(FlopsTest, TrunkWithElementwiseWorkEqualsThePaperTableWithinItsRounding) {
  for (const auto& row : kPaperFlops) {
    ModelConfig model = Request(row.name).model;
    EXPECT_NEAR(FlopsOf(model).paper_table / 1e9, row.gf_224, 0.05) << row.name;
    model.image_size = 384;
    EXPECT_NEAR(FlopsOf(model).paper_table / 1e9, row.gf_384, 0.05) << row.name;
  }
}

// Parameters of the same table, in millions: neither the MAP head nor the classifier is counted.
TEST(ParametersTest, OfTheBodyEqualThePaperTableWithinItsRounding) {
  constexpr double kMillions[] = {5.4, 5.0, 22, 5.5, 87, 22, 87, 86, 303, 1011, 1843};
  for (size_t i = 0; i < std::size(kPaperFlops); ++i) {
    const ModelConfig model = Request(kPaperFlops[i].name).model;
    const ParamTable table(model, OptimizerKind::kAdafactor);
    EXPECT_NEAR(double(table.body_parameter_count()) / 1e6, kMillions[i],
                kMillions[i] < 10 ? 0.05 : 0.5)
        << kPaperFlops[i].name;
    // Whatever the head.
    ModelConfig more = model;
    more.classes += 1;
    more.pool = PoolKind::kGap;
    more.representation_size = 8;
    EXPECT_EQ(ParamTable(more, OptimizerKind::kSgd).body_parameter_count(),
              table.body_parameter_count());
  }
}

// What the matmuls leave out of the table is below 3 % even for the smallest models.
TEST(FlopsTest, MatmulsAreNearlyAllOfThePaperTable) {
  for (const auto& row : kPaperFlops) {
    const Flops flops = FlopsOf(Request(row.name).model);
    EXPECT_LT(flops.trunk, flops.paper_table);
    EXPECT_GT(flops.trunk, 0.97 * flops.paper_table) << row.name;
  }
}

class FlopsOfProgramsTest : public testing::TestWithParam<PoolKind> {};

TEST_P(FlopsOfProgramsTest, EqualTheClosedForm) {
  PlanRequest request = Request("mu/16", 10, 4);
  request.model.pool = GetParam();
  request.model.representation_size = 24;
  const Plan plan = Planned(request);
  const double width = request.model.width;
  const double query =
      GetParam() == PoolKind::kMap ? 2 * width * width : 0;  // once per step, not per image
  Program eval = BuildEval(plan.layout, true);
  EXPECT_DOUBLE_EQ(CostOf(eval).flops, 4 * plan.flops.forward + query);
  // Backward doubles every matmul but the patch embedding's, whose input has no gradient.
  const double patches = 2.0 * request.model.patches() * request.model.patch_elements() * width;
  Program step = BuildStep(plan.layout, {});
  EXPECT_DOUBLE_EQ(CostOf(step).flops, 4 * (plan.flops.training() - patches) + 3 * query);
}
INSTANTIATE_TEST_SUITE_P(EveryHead, FlopsOfProgramsTest,
                         testing::Values(PoolKind::kMap, PoolKind::kGap, PoolKind::kCls));

// ---- memory ------------------------------------------------------------------

TEST(PlanTest, LargestModelIsPlannedWithoutAllocatingIt) {
  PlanRequest request = Request("G/14", 29593, 8);
  const Plan plan = Planned(request);
  EXPECT_EQ(plan.layout.table.parameter_count(), 1930404761);
  // 7.19 GiB each of f32 parameters and gradients, 3.60 of momentum: arXiv 2106.04560 section 3.4
  // gives 2 B per parameter for the optimizer.
  EXPECT_NEAR(Bytes(plan, Arena::kParameters) / double(1 << 30), 7.19, 0.005);
  EXPECT_NEAR(Bytes(plan, Arena::kGradients) / double(1 << 30), 7.19, 0.005);
  EXPECT_NEAR(Bytes(plan, Arena::kMomentum) / double(1 << 30), 3.60, 0.005);
  EXPECT_NEAR(Bytes(plan, Arena::kSecondMoment) / double(1 << 30), 0.03, 0.005);
}

TEST(PlanTest, ActivationsPerImageOfABlockAreWhatBackwardReads) {
  const double width = 384, hidden = 1536, heads = 6;
  // Per token: two streams; bf16 of qkv, attention and pre-activation; two pairs of f32 and heads
  // of statistics. Without recompute also bf16 of two norms and of the hidden layer.
  const auto kept = [&](int stream_bytes) {
    return 2 * stream_bytes * width + 2 * (3 * width + width + hidden) + 4 * (4 + heads);
  };
  struct Case {
    RecomputeLevel level;
    DType residual;
    double per_token;
  };
  for (const Case& c :
       {Case{RecomputeLevel::kNone, DType::kF32, kept(4) + 2 * (2 * width + hidden)},
        Case{RecomputeLevel::kGeluAndLayerNorm, DType::kF32, kept(4)},
        Case{RecomputeLevel::kGeluAndLayerNorm, DType::kBf16, kept(2)},
        Case{RecomputeLevel::kBlock, DType::kF32, 4 * width},
        Case{RecomputeLevel::kBlock, DType::kBf16, 2 * width}}) {
    PlanRequest shallow = Request("S/16"), deep = Request("S/16");
    shallow.model.depth = 10;
    deep.model.depth = 11;
    shallow.recompute = deep.recompute = c.level;
    shallow.model.residual = deep.model.residual = c.residual;
    const double per_block =
        (Planned(deep).step_activation_bytes - Planned(shallow).step_activation_bytes) / 32.0;
    EXPECT_NEAR(per_block, 196 * c.per_token, 0.001 * per_block) << RecomputeName(c.level);
  }
}

// What users are told S/16 needs at batch 32 in bf16; vitscale-bench step measures it.
TEST(PlanTest, AStepOfS16HoldsLessWithEachLevel) {
  const auto bytes = [](RecomputeLevel level, DType residual) {
    PlanRequest request = Request("S/16");
    request.recompute = level;
    request.model.residual = residual;
    request.threads = 2;
    return static_cast<double>(Planned(request).step_bytes());
  };
  EXPECT_LT(bytes(RecomputeLevel::kNone, DType::kF32), 1.6e9);
  EXPECT_LT(bytes(RecomputeLevel::kAuto, DType::kF32), 1.25e9);
  EXPECT_LT(bytes(RecomputeLevel::kAuto, DType::kBf16), 1.15e9);
  EXPECT_LT(bytes(RecomputeLevel::kBlock, DType::kF32), 0.7e9);
}

TEST(PlanTest, EvaluationNeedsNoMemoryPerBlock) {
  PlanRequest shallow = Request("S/16"), deep = Request("S/16");
  shallow.model.depth = 6;
  EXPECT_EQ(Planned(deep).eval_activation_bytes, Planned(shallow).eval_activation_bytes);
}

// big_vision's rule for second moments (arXiv 2106.04560 section 3.4: about 2 B per parameter with
// the bf16 momentum), with 1000 classes.
TEST(PlanTest, OptimizerStatePerParameterIsThatOfThePaper) {
  struct Case {
    const char* variant;
    double bytes;
  };
  for (const Case& c : {Case{"Ti/16", 2.16}, Case{"s/16", 2.20}, Case{"S/16", 2.09},
                        Case{"B/16", 2.06}, Case{"L/16", 2.04}}) {
    const ParamTable table = Planned(Request(c.variant, 1000, 1)).layout.table;
    const double parameters = static_cast<double>(table.parameter_count());
    EXPECT_NEAR(2 + 4 * table.second_moment_count() / parameters, c.bytes, 0.005) << c.variant;
  }
}

TEST(PlanTest, EvaluationHoldsParametersAndWhatItsProgramsNeed) {
  PlanRequest request = Request("S/16");
  const Plan train = Planned(request);
  request.training = false;
  const Plan plan = Planned(request);
  for (const Arena arena : {Arena::kGradients, Arena::kMomentum, Arena::kSecondMoment}) {
    EXPECT_EQ(Bytes(plan, arena), 0);
  }
  EXPECT_EQ(Bytes(plan, Arena::kParameters), Bytes(train, Arena::kParameters));
  EXPECT_EQ(Bytes(plan, Arena::kActivations), plan.eval_activation_bytes);
  EXPECT_EQ(plan.step_activation_bytes, 0);
  EXPECT_LT(plan.compute_weight_bytes, 0.51 * train.compute_weight_bytes);  // forward copies only
  EXPECT_LT(plan.memory_bytes(), 0.3 * train.memory_bytes());
}

TEST(PlanTest, BucketsCoverTheGradientArenaWithWholeTensors) {
  PlanRequest request = Request("Ti/16");
  request.bucket_bytes = 1 << 20;
  const Plan plan = Planned(request);
  int64_t end = 0;
  for (const Bucket& bucket : plan.layout.buckets) {
    EXPECT_EQ(bucket.offset_bytes, end);
    end += bucket.bytes;
  }
  EXPECT_EQ(end, Bytes(plan, Arena::kGradients));
  for (const Parameter& p : plan.layout.table.parameters()) {
    const TensorView gradient = plan.layout.table.GradientView(p);
    int holders = 0;
    for (const Bucket& b : plan.layout.buckets) {
      holders += gradient.offset >= b.offset_bytes &&
                 gradient.offset + gradient.bytes() <= b.offset_bytes + b.bytes;
    }
    EXPECT_EQ(holders, 1) << p.name;
  }
  EXPECT_GT(plan.layout.buckets.size(), 10u);
}

// The sum of the last bucket is the one that backward cannot hide.
TEST(PlanTest, TheLastBucketIsSmallHoweverLargeBucketsMayBe) {
  const Plan plan = Planned(Request("S/16", 32));
  const std::vector<Bucket>& buckets = plan.layout.buckets;
  ASSERT_GT(buckets.size(), 3u);
  EXPECT_GT(buckets.front().bytes, int64_t{16} << 20);
  EXPECT_LE(buckets.back().bytes, int64_t{4} << 20);
}

TEST(PlanTest, ATensorAboveTheBucketSizeHasABucketOfItsOwn) {
  PlanRequest request = Request("mu/16", 1000, 1);
  request.bucket_bytes = 64;
  EXPECT_EQ(Planned(request).layout.buckets.size(),
            Planned(request).layout.table.parameters().size());
}

TEST(PlanTest, WireBytesAreThoseOfARing) {
  const Plan plan = Planned(Request("Ti/16"));
  EXPECT_EQ(plan.WireBytes(1), 0);
  EXPECT_EQ(plan.WireBytes(2), plan.gradient_bytes);
  EXPECT_NEAR(plan.WireBytes(4), 1.5 * plan.gradient_bytes, 1);
}

TEST(PlanTest, CheckpointHoldsAboutSixBytesPerParameter) {
  const Plan plan = Planned(Request("B/16"));
  EXPECT_EQ(plan.checkpoint_bytes, plan.layout.table.parameter_count() * 6 + 1343892 * 4);
}

TEST(PlanTest, HashChangesWithWhatRanksMustAgreeOn) {
  const PlanRequest base = Request("mu/16", 10, 4);
  const uint64_t hash = Planned(base).hash;
  EXPECT_EQ(Planned(base).hash, hash);
  const auto changed = [&](void (*change)(PlanRequest&)) {
    PlanRequest request = base;
    request.batch_global = 8;
    const uint64_t before = Planned(request).hash;
    change(request);
    EXPECT_NE(Planned(request).hash, before);
  };
  changed([](PlanRequest& r) { r.batch_micro = 2; });
  changed([](PlanRequest& r) { r.batch_global = 16; });
  changed([](PlanRequest& r) { r.precision = Precision::kF32; });
  changed([](PlanRequest& r) { r.optimizer = OptimizerKind::kSgd; });
  changed([](PlanRequest& r) { r.model.depth = 2; });
  changed([](PlanRequest& r) { r.model.loss = LossKind::kSoftmax; });
  changed([](PlanRequest& r) { r.bucket_bytes = 4096; });
  changed([](PlanRequest& r) { r.range_min = 0; });
  changed([](PlanRequest& r) { r.model.residual = DType::kBf16; });
  // No bit of a result depends on it, so ranks may differ.
  PlanRequest block = base;
  block.recompute = RecomputeLevel::kBlock;
  EXPECT_EQ(Planned(block).hash, hash);
}

// ---- refusals ----------------------------------------------------------------

TEST(PlanTest, BadRequestsAreNamed) {
  const auto expect = [](void (*spoil)(PlanRequest&), const char* text) {
    PlanRequest request = Request("mu/16", 10, 4);
    spoil(request);
    EXPECT_THAT(MakePlan(request), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  };
  expect([](PlanRequest& r) { r.batch_micro = 0; }, "batch.micro is 0");
  expect([](PlanRequest& r) { r.batch_global = 6; },
         "batch.micro is 4, want a divisor of batch.global (6)");
  expect([](PlanRequest& r) { r.precision = Precision::kAuto; }, "precision is auto");
  expect([](PlanRequest& r) { r.source_height = 100; }, "source images are 100x224");
  expect([](PlanRequest& r) { r.model.heads = 0; }, "model.heads");
  expect([](PlanRequest& r) { r.bucket_bytes = 0; }, "bucket size is 0");
}

// ---- what fits ---------------------------------------------------------------

TEST(FitTest, ChosenMicroBatchDealsOutEvenlyAndFits) {
  PlanRequest request = Request("S/16");
  request.batch_global = 256;
  EXPECT_EQ(*ChooseMicroBatch(request, 2, 0), 128);
  EXPECT_EQ(*ChooseMicroBatch(request, 1, 0), 256);
  request.batch_global = 4096;
  EXPECT_EQ(*ChooseMicroBatch(request, 2, 0), kMicroBatchMax);
  request.batch_micro = 64;
  const int64_t memory = Planned(request).memory_bytes();
  EXPECT_EQ(*ChooseMicroBatch(request, 2, memory), 64);
  EXPECT_EQ(*ChooseMicroBatch(request, 2, memory - 1), 32);
}

TEST(FitTest, AutoKeepsLessOnlyWhereMemoryAsksForIt) {
  PlanRequest request = Request("S/16");
  request.batch_global = 64;
  EXPECT_EQ(*ChooseRecompute(request, 0), RecomputeLevel::kGeluAndLayerNorm);
  const int64_t enough = Planned(request).memory_bytes();
  EXPECT_EQ(*ChooseRecompute(request, enough), RecomputeLevel::kGeluAndLayerNorm);
  EXPECT_EQ(*ChooseRecompute(request, enough - 1), RecomputeLevel::kBlock);
  request.recompute = RecomputeLevel::kNone;  // what the job says stands
  EXPECT_EQ(*ChooseRecompute(request, enough - 1), RecomputeLevel::kNone);
  // A smaller micro-batch costs less than running blocks again, down to MicroBatchEnough.
  request.recompute = RecomputeLevel::kAuto;
  EXPECT_EQ(*ChooseMicroBatch(request, 1, enough - 1), 16);
  const int64_t enough_images = MicroBatchEnough(request);
  request.batch_micro = enough_images;
  const int64_t few = Planned(request).memory_bytes();
  EXPECT_EQ(*ChooseMicroBatch(request, 1, few), enough_images);
  EXPECT_GT(*ChooseMicroBatch(request, 1, few - 1), enough_images);
}

TEST(FitTest, WorkersThatDoNotDivideTheBatchStillGetAMicroBatchEach) {
  PlanRequest request = Request("mu/16", 10, 1);
  request.batch_global = 256;
  EXPECT_EQ(*ChooseMicroBatch(request, 3, 0), 64);
  EXPECT_THAT(ChooseMicroBatch(request, 257, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("257")));
}

TEST(FitTest, RefusalNamesTheSmallestChangeThatFits) {
  PlanRequest request = Request("S/16", 1000, 64);
  const Plan plan = Planned(request);
  EXPECT_THAT(CheckFits(plan, plan.memory_bytes()), IsOk());
  EXPECT_THAT(CheckFits(plan, plan.memory_bytes() - 1),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("smallest change that fits: batch.micro 32")));
  request.recompute = RecomputeLevel::kNone;
  EXPECT_THAT(CheckFits(Planned(request), plan.memory_bytes()),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("smallest change that fits: recompute gelu_layernorm")));
  request.batch_micro = request.batch_global = 1;
  const int64_t default_level = Planned(Request("S/16", 1000, 1)).memory_bytes();
  request.recompute = RecomputeLevel::kBlock;
  const int64_t block = Planned(request).memory_bytes();
  request.model.residual = DType::kBf16;
  const int64_t bf16 = Planned(request).memory_bytes();
  ASSERT_LT(bf16, block);
  const auto change = [&](int64_t memory) {
    return std::string(CheckFits(Planned(Request("S/16", 1000, 1)), memory).message());
  };
  EXPECT_THAT(change(default_level - 1), testing::EndsWith("that fits: recompute block"));
  EXPECT_THAT(change(block - 1),
              testing::EndsWith("that fits: model.residual bf16, recompute block"));
}

TEST(FitTest, RefusalProposesAnotherOptimizerWhenOneImageIsTooMuch) {
  PlanRequest adamw = Request("S/16", 1000, 1), adafactor = Request("S/16", 1000, 1);
  adamw.optimizer = OptimizerKind::kAdamW;
  const int64_t memory = Planned(adafactor).memory_bytes();
  PlanRequest smallest = adafactor;
  smallest.recompute = RecomputeLevel::kBlock;
  smallest.model.residual = DType::kBf16;
  smallest.precision = Precision::kBf16;
  const int64_t least = Planned(smallest).memory_bytes();
  EXPECT_THAT(CheckFits(Planned(adamw), memory),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("adafactor")));
  EXPECT_THAT(CheckFits(Planned(adafactor), 1 << 20),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("a smaller model"), HasSubstr(HumanBytes(least)))));
}

// ---- report ------------------------------------------------------------------

TEST(PlanTextTest, SaysCountsMemoryAndWireAndNoTimeWithoutMeasuredRates) {
  const std::string text = PlanText(Planned(Request("G/14", 29593, 8)), {1, 8});
  EXPECT_THAT(text, HasSubstr("1,930,404,761"));
  EXPECT_THAT(text, HasSubstr("8,690,098"));
  EXPECT_THAT(text, testing::ContainsRegex("gradients +7.191 GiB"));
  EXPECT_THAT(text, HasSubstr("8 workers"));
  EXPECT_THAT(text, Not(HasSubstr("efficiency")));
}

TEST(HumanBytesTest, HasFourDigits) {
  EXPECT_EQ(HumanBytes(512), "512 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(int64_t{5} << 30), "5 GiB");
}

}  // namespace
}  // namespace vitscale
