// Plans for cards: what lies on the card and what in the host's memory, what fits, and the level of
// recompute that follows.

#include <string>
#include <variant>

#include "tests/status_matchers.h"
#include "worker/model/vit.h"
#include "worker/plan/card_bytes.h"
#include "worker/plan/cost.h"
#include "worker/plan/memory_table.h"
#include "worker/plan/plan.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kGiB = int64_t{1} << 30;

PlanRequest OnCard(const std::string& variant, int64_t batch, int classes = 1000) {
  PlanRequest request;
  request.device = DeviceKind::kCuda;
  request.model.SetShape(VariantByName(variant).value());
  request.model.classes = classes;
  request.precision = Precision::kBf16;
  request.batch_micro = batch;
  return request;
}
// The largest model with the paper's 29,593 classes; 4,608 images are 48 micro-batches of 96.
PlanRequest Largest(int64_t batch) {
  PlanRequest request = OnCard("G/14", batch, 29593);
  request.batch_global = 4608;
  return request;
}
Plan Planned(const PlanRequest& request) { return MakePlan(request).value(); }
int64_t Bytes(const Plan& plan, Arena arena) { return plan.arena_bytes[static_cast<int>(arena)]; }
std::string PlanOn(PlanRequest request, int64_t memory_bytes) {
  request.recompute = ChooseRecompute(request, memory_bytes).value();
  ReportOptions options;
  options.memory_bytes = memory_bytes;
  return PlanText(Planned(request), {1}, options);
}

// ---- bytes -------------------------------------------------------------------

// tests/gpu/results, 2026-11-26: bytes in use on an H200 while vitscale-bench step ran.
TEST(CardBytesTest, AreThoseThatAnH200WasSeenToHold) {
  struct Run {
    const char* variant;
    int64_t batch;
    double bytes;
  };
  for (const Run& run :
       {Run{"Ti/16", 1024, 13.3114e9}, Run{"S/16", 512, 13.4436e9}, Run{"B/16", 256, 14.2961e9},
        Run{"L/16", 128, 20.1933e9}, Run{"g/14", 32, 25.1824e9}}) {
    PlanRequest request = OnCard(run.variant, run.batch);
    request.recompute = RecomputeLevel::kGeluAndLayerNorm;
    const double planned = static_cast<double>(Planned(request).card_bytes());
    EXPECT_NEAR(planned / run.bytes, 1.0, 0.003) << run.variant;
  }
}

// Loss and matmuls of the head see rows of 29,600; parameters, gradients and FLOPs stay those of
// 29,593 classes.
TEST(CardPlanTest, PadsRowsOfLogitsToEightClassesAndNothingElse) {
  PlanRequest on_card = Largest(8), on_cpu = on_card;
  on_cpu.device = DeviceKind::kCpu;
  const Plan padded = Planned(on_card), dense = Planned(on_cpu);
  EXPECT_TRUE(padded.layout.padded_logits);
  EXPECT_FALSE(dense.layout.padded_logits);
  EXPECT_EQ(Bytes(padded, Arena::kParameters), Bytes(dense, Arena::kParameters));
  EXPECT_EQ(padded.hash, dense.hash);
  Program step = BuildStep(padded.layout, {true, true});
  Program step_on_cpu = BuildStep(dense.layout, {true, true});
  EXPECT_EQ(CostOf(step).flops, CostOf(step_on_cpu).flops);
  int losses = 0;
  for (const Op& op : step.ops()) {
    const auto* loss = std::get_if<SigmoidLossArgs>(&op);
    if (loss == nullptr) continue;
    EXPECT_EQ(loss->classes, 29593);
    EXPECT_EQ(loss->logits.columns(), 29600);
    EXPECT_EQ(loss->grad_logits.columns(), 29600);
    ++losses;
  }
  EXPECT_EQ(losses, 1);
  EXPECT_THAT(PlanOn(on_card, 80 * kGiB), HasSubstr("29593 classes in rows of 29600"));
  EXPECT_THAT(PlanOn(OnCard("S/16", 8), 80 * kGiB), Not(HasSubstr("classes in rows")));
}

TEST(CardBytesTest, WhatTheLoaderAndASaveHoldIsTheHostsAndNotTheCards) {
  PlanRequest request = OnCard("S/16", 64);
  const Plan plan = Planned(request);
  EXPECT_EQ(plan.memory_bytes(), plan.card_bytes());
  int64_t arenas = 0;
  for (const int64_t arena : plan.arena_bytes) arenas += arena;
  EXPECT_EQ(plan.card_bytes(),
            arenas + plan.compute_weight_bytes + plan.workspace_bytes + kCardContextBytes);
  EXPECT_EQ(plan.host_bytes(), kCudaProcessBytes + kPinnedStagingBytes + plan.staged_input_bytes +
                                   plan.checkpoint_bytes);
  request.device = DeviceKind::kCpu;
  const Plan cpu = Planned(request);
  EXPECT_EQ(cpu.card_bytes(), 0);
  EXPECT_EQ(cpu.memory_bytes(), cpu.host_bytes());
  EXPECT_GT(cpu.host_bytes(), cpu.step_bytes() + cpu.checkpoint_bytes);
}

TEST(CardBytesTest, BothDirectionsOfAMatmulReadOneCopyOfItsWeight) {
  PlanRequest request = OnCard("L/16", 8);
  const Plan card = Planned(request);
  const double parameters = static_cast<double>(card.layout.table.parameter_count());
  EXPECT_GT(static_cast<double>(card.compute_weight_bytes), 1.99 * parameters);
  EXPECT_LT(static_cast<double>(card.compute_weight_bytes), 2.05 * parameters);
  request.device = DeviceKind::kCpu;
  EXPECT_GT(Planned(request).compute_weight_bytes, 1.9 * card.compute_weight_bytes);
}

TEST(CardBytesTest, EveryProgramOfAStepHasAWorkspaceOfItsOwn) {
  PlanRequest request = OnCard("S/16", 64);
  const int64_t one = Planned(request).workspace_bytes;
  request.batch_global = 128;
  const int64_t two = Planned(request).workspace_bytes;
  request.batch_global = 64 * 100;
  const int64_t many = Planned(request).workspace_bytes;
  EXPECT_GT(two, one);
  EXPECT_EQ(many - two, two - one);  // first, last and those between
}

// ---- recompute ---------------------------------------------------------------

TEST(CardFitTest, AutoKeepsEverythingWhereThatFitsAndLessOnlyWhereItMust) {
  PlanRequest request = OnCard("L/16", 64);
  EXPECT_EQ(*ChooseRecompute(request, 0), RecomputeLevel::kNone);
  EXPECT_EQ(Planned(request).request.recompute, RecomputeLevel::kNone);
  const auto bytes = [&](RecomputeLevel level) {
    PlanRequest trial = request;
    trial.recompute = level;
    return Planned(trial).card_bytes();
  };
  const int64_t none = bytes(RecomputeLevel::kNone);
  const int64_t some = bytes(RecomputeLevel::kGeluAndLayerNorm);
  EXPECT_EQ(*ChooseRecompute(request, none), RecomputeLevel::kNone);
  EXPECT_EQ(*ChooseRecompute(request, none - 1), RecomputeLevel::kGeluAndLayerNorm);
  EXPECT_EQ(*ChooseRecompute(request, some), RecomputeLevel::kGeluAndLayerNorm);
  EXPECT_EQ(*ChooseRecompute(request, some - 1), RecomputeLevel::kBlock);
}

TEST(CardFitTest, AnOpenMicroBatchIsLargeEnoughForTheCardBeforeAnythingIsComputedAgain) {
  PlanRequest request = OnCard("L/16", 1);
  request.batch_global = 1024;
  const int64_t enough = MicroBatchEnough(request);
  EXPECT_EQ(enough, 22);  // 132 * 128 * 256 / (196 * 1024)
  request.batch_micro = 32;
  request.recompute = RecomputeLevel::kNone;
  const int64_t memory = Planned(request).card_bytes();
  request.recompute = RecomputeLevel::kAuto;
  EXPECT_EQ(*ChooseMicroBatch(request, 1, memory), 32);
  EXPECT_EQ(*ChooseRecompute(request, memory), RecomputeLevel::kNone);
  EXPECT_GT(*ChooseMicroBatch(request, 1, memory - 1), 16);  // 16 images would leave it idle
}

// ---- the largest model -------------------------------------------------------

TEST(LargestModelTest, TakesNinetySixImagesOnACardOf80GB) {
  EXPECT_THAT(PlanOn(Largest(96), 80 * kGiB),
              AllOf(ContainsRegex("recompute +gelu_layernorm"), ContainsRegex("fits +yes, of 80")));
}
TEST(LargestModelTest, TakesTwentyFourImagesOnACardOf40GBWithGeluAndLayerNormAgain) {
  EXPECT_THAT(PlanOn(Largest(24), 40 * kGiB),
              AllOf(ContainsRegex("recompute +gelu_layernorm"), ContainsRegex("fits +yes, of 40")));
}
TEST(LargestModelTest, TakesEightImagesOnACardOf24GBWithBlocksAgain) {
  EXPECT_THAT(PlanOn(Largest(8), 24 * kGiB),
              AllOf(ContainsRegex("recompute +block"), ContainsRegex("fits +yes, of 24")));
}
TEST(LargestModelTest, IsRefusedOnACardOf16GBWithTheSmallestOneThatWouldDo) {
  PlanRequest least = Largest(1);
  least.recompute = RecomputeLevel::kBlock;
  least.model.residual = DType::kBf16;
  const std::string enough = HumanBytes(Planned(least).card_bytes());
  EXPECT_THAT(CheckFits(Planned(Largest(8)), 16 * kGiB),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("GiB on the card with batch.micro 8, there are 16 GiB"),
                             HasSubstr("a smaller model, or a card with " + enough))));
  EXPECT_THAT(ChooseMicroBatch(Largest(1), 48, 16 * kGiB),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("a smaller model")));
}

TEST(LargestModelTest, OpenMicroBatchesAreAtLeastAsLarge) {
  const auto chosen = [](RecomputeLevel level, int64_t memory) {
    PlanRequest request = Largest(1);
    request.recompute = level;
    return ChooseMicroBatch(request, 1, memory).value();
  };
  EXPECT_GE(chosen(RecomputeLevel::kGeluAndLayerNorm, 80 * kGiB), 96);
  EXPECT_GE(chosen(RecomputeLevel::kGeluAndLayerNorm, 40 * kGiB), 24);
  EXPECT_GE(chosen(RecomputeLevel::kBlock, 24 * kGiB), 8);
}

// ---- text --------------------------------------------------------------------

TEST(CardPlanTextTest, SaysWhatLiesOnTheCardAndWhatInTheHostsMemory) {
  const std::string text = PlanText(Planned(Largest(8)), {1});
  EXPECT_THAT(text, ContainsRegex("optimizer state +3\\.6[0-9]+ GiB .*14\\.38 GiB"));
  EXPECT_THAT(text, ContainsRegex("memory on the card .*\n +parameters +7\\.191 GiB"));
  EXPECT_THAT(text, ContainsRegex("CUDA context +580 MiB\nmemory of the host"));
  EXPECT_THAT(text, ContainsRegex("pinned staging +8 MiB"));
  EXPECT_THAT(text, ContainsRegex("copy while saving +10\\.[0-9]+ GiB"));
  EXPECT_THAT(text, Not(HasSubstr("packed per use")));
}

TEST(MemoryTableTest, StandsBehindWhatABackendSaysOfTooLittleMemoryAndNothingElse) {
  const Plan plan = Planned(OnCard("S/16", 64));
  EXPECT_THAT(
      WithMemoryTable(absl::ResourceExhaustedError("activations: 3.2 GiB are free"), plan),
      StatusIs(absl::StatusCode::kResourceExhausted,
               AllOf(HasSubstr("activations: 3.2 GiB are free; planned:\nmemory on the card"),
                     HasSubstr("CUDA context"))));
  EXPECT_EQ(WithMemoryTable(absl::InternalError("lost"), plan), absl::InternalError("lost"));
  EXPECT_THAT(WithMemoryTable(absl::OkStatus(), plan), IsOk());
}

// ---- wide heads --------------------------------------------------------------

TEST(WideHeadTest, LogitsOfAWideHeadExistForAFewImagesAtATime) {
  EXPECT_EQ(HeadRows(4096, 1000), 4096);
  EXPECT_EQ(HeadRows(256, 29593), 256);
  EXPECT_EQ(HeadRows(4096, 29593), 512);     // 8 pieces of 60.6 MB
  EXPECT_EQ(HeadRows(4096, 21843), 704);     // 6 pieces; the last one is shorter
  EXPECT_EQ(HeadRows(100, 10'000'000), 64);  // never less
}

TEST(WideHeadTest, FourThousandImagesOf29593ClassesNeedNoHalfGigabyte) {
  PlanRequest narrow = OnCard("mu/16", 4096, 8), wide = OnCard("mu/16", 4096, 29593);
  narrow.recompute = wide.recompute = RecomputeLevel::kBlock;
  const int64_t more = Planned(wide).step_activation_bytes - Planned(narrow).step_activation_bytes;
  EXPECT_LT(more, int64_t{100} << 20);  // 60.6 MB of logits, 30.3 of their gradients
  EXPECT_EQ(Bytes(Planned(wide), Arena::kInput), Bytes(Planned(narrow), Arena::kInput));
  EXPECT_THAT(PlanText(Planned(wide), {1}), HasSubstr("logits of 512 at a time"));
}

}  // namespace
}  // namespace vitscale
