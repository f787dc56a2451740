#include "worker/plan/predict.h"

#include "tests/status_matchers.h"
#include "worker/model/vit.h"
#include "worker/plan/machine_rates.h"
#include "worker/plan/plan.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kBf16 = Precision::kBf16;

// ---- rates ------------------------------------------------------------------------------------

TEST(MachineRatesTest, WhatIsWrittenIsReadAgain) {
  MachineRates rates;
  rates.device = "some CPU (avx2, oneDNN 2.6.3)";
  rates.measured = "2026-01-02T03:04:05Z";
  rates.threads = 4;
  rates.memory_bytes_per_second = 5e10;
  rates.wire_bytes_per_second = 1e9;
  rates.ceiling_flops_per_second[Precision::kF32] = 2e11;
  rates.Add(kBf16, "Linear", 384, 4e11);
  rates.Add(Precision::kF32, "LayerNorm", 128, 3e10);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const MachineRates read, MachineRates::Parse(rates.ToText()));
  EXPECT_EQ(read.ToText(), rates.ToText());
  EXPECT_EQ(read.device, rates.device);
  EXPECT_EQ(read.threads, 4);
  EXPECT_EQ(read.Seconds(kBf16, "Linear", 384, {.flops = 4e11, .bytes = 0}), 1);
  EXPECT_TRUE(read.Knows(kBf16));
}

TEST(MachineRatesTest, WidthsBetweenAreInterpolatedByTheirLogarithm) {
  MachineRates rates;
  rates.Add(kBf16, "Linear", 100, 1e9);
  rates.Add(kBf16, "Linear", 400, 4e9);
  const auto rate = [&](int width) {
    return 1 / rates.Seconds(kBf16, "Linear", width, {.flops = 1, .bytes = 0});
  };
  EXPECT_NEAR(rate(200), 2e9, 1);  // half way from 100 to 400, rates as a power of it
  EXPECT_NEAR(rate(100), 1e9, 1);
  EXPECT_NEAR(rate(10), 1e9, 1);
  EXPECT_NEAR(rate(4000), 4e9, 1);
}

TEST(MachineRatesTest, AnUnknownOpTakesWhatBoundsIt) {
  MachineRates rates;
  rates.memory_bytes_per_second = 10;
  rates.ceiling_flops_per_second[kBf16] = 100;
  EXPECT_EQ(rates.Seconds(kBf16, "Tanh", 8, {.flops = 0, .bytes = 20}), 2);
  EXPECT_EQ(rates.Seconds(kBf16, "New", 8, {.flops = 300, .bytes = 20}), 3);
  EXPECT_FALSE(rates.Knows(kBf16));
}

TEST(MachineRatesTest, DamagedFilesAreNamedByLine) {
  const auto fails = [](const std::string& text, const char* message) {
    EXPECT_THAT(MachineRates::Parse(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)))
        << text;
  };
  fails("", "line 1 is \"\", wanted vitscale-rates 1");
  fails("vitscale-rates 2\n", "line 1");
  for (const char* line : {"op bf16 Linear 384", "op bf16 Linear 0 1", "op f16 Linear 8 1",
                           "op bf16 Linear 8 -1", "op bf16 Linear 8 nan", "threads 0",
                           "memory_bytes_per_second inf", "ceiling bf16", "device", "x 1"}) {
    fails(absl::StrCat("vitscale-rates 1\nthreads 2\n", line, "\n"), "line 3");
  }
}

// ---- prediction -------------------------------------------------------------------------------

Plan Planned(int64_t micro, int64_t global, int64_t bucket_bytes = int64_t{32} << 20) {
  PlanRequest request;
  request.model.SetShape(*VariantByName("S/16"));
  request.model.classes = 1000;
  request.precision = kBf16;
  request.batch_micro = micro;
  request.batch_global = global;
  request.bucket_bytes = bucket_bytes;
  return *MakePlan(request);
}

// Every op runs at the machine's ceilings but one that makes the machine known.
MachineRates Ceilings(double flops, double bytes) {
  MachineRates rates;
  rates.ceiling_flops_per_second[kBf16] = flops;
  rates.memory_bytes_per_second = bytes;
  rates.Add(kBf16, "NoSuchOp", 1, 1);
  return rates;
}

TEST(PredictTest, OneWorkerTakesItsArithmeticWhereMemoryIsFast) {
  const Plan plan = Planned(32, 32);
  const double flops_per_second = 1e12;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const StepPredictor predictor,
                                StepPredictor::Create(plan, Ceilings(flops_per_second, 1e30)));
  const StepPrediction step = predictor.Predict(1);
  Program program = BuildStep(plan.layout, {});
  const double seconds = CostOf(program).flops / flops_per_second;
  EXPECT_NEAR(step.seconds, seconds, 1e-9 * seconds);
  EXPECT_NEAR(step.backward_seconds / step.seconds, 2.0 / 3, 0.01);  // two matmuls for each one
  EXPECT_EQ(step.efficiency, 1);
  EXPECT_NEAR(step.images_per_second * step.seconds, 32, 1e-9);
}

TEST(PredictTest, RatesOfACpuSayNothingOfACard) {
  PlanRequest request = Planned(32, 32).request;
  request.device = DeviceKind::kCuda;
  MachineRates rates = Ceilings(1e12, 1e30);
  rates.device = "some CPU (avx2)";
  EXPECT_THAT(StepPredictor::Create(*MakePlan(request), rates),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("not known for a card: the rates are those of a CPU (some CPU")));
  request.device = DeviceKind::kCpu;
  EXPECT_THAT(StepPredictor::Create(*MakePlan(request), rates), IsOk());
}

TEST(PredictTest, WorkersShareMicroBatchesAndTheSlowestCounts) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const StepPredictor predictor,
                                StepPredictor::Create(Planned(32, 128), Ceilings(1e12, 1e30)));
  const double fast = 1e30;
  const StepPrediction one = predictor.Predict(1), two = predictor.Predict(2, fast),
                       three = predictor.Predict(3, fast);
  EXPECT_NEAR(one.seconds / two.seconds, 2, 1e-6);
  EXPECT_NEAR(two.efficiency, 1, 1e-6);
  EXPECT_NEAR(three.seconds, two.seconds, 1e-6 * two.seconds);  // 2, 1 and 1 micro-batches
  EXPECT_NEAR(three.efficiency, 2.0 / 3, 1e-6);
}

TEST(PredictTest, TheUpdateIsEveryWorkersOwn) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const StepPredictor predictor,
                                StepPredictor::Create(Planned(32, 64), Ceilings(1e30, 1e9)));
  const StepPrediction one = predictor.Predict(1), two = predictor.Predict(2, 1e30);
  EXPECT_GT(one.update_seconds, 0);
  EXPECT_EQ(one.update_seconds, two.update_seconds);
  EXPECT_LT(two.efficiency, 1);
}

TEST(PredictTest, BackwardHidesAllButTheLastBucketOfAFastWire) {
  const Plan plan = Planned(32, 64, int64_t{4} << 20);
  const double buckets = static_cast<double>(plan.layout.buckets.size());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const StepPredictor predictor,
                                StepPredictor::Create(plan, Ceilings(1e12, 1e30)));
  const double backward = predictor.Predict(1).backward_seconds;
  const double bytes = static_cast<double>(plan.WireBytes(2));
  const StepPrediction fast = predictor.Predict(2, bytes / (0.5 * backward));
  EXPECT_NEAR(fast.exposed_seconds, 0.5 * backward / buckets, 1e-9);
  const StepPrediction slow = predictor.Predict(2, bytes / (3 * backward));
  EXPECT_NEAR(slow.exposed_seconds, 3 * backward - (1 - 1 / buckets) * backward, 1e-9);
  EXPECT_LT(slow.efficiency, fast.efficiency);
  EXPECT_EQ(predictor.Predict(2).seconds, 0);  // nobody knows the wire
}

TEST(PredictTest, AnUnknownPrecisionIsRefused) {
  PlanRequest request = Planned(4, 4).request;
  request.precision = Precision::kF32;
  EXPECT_THAT(StepPredictor::Create(*MakePlan(request), Ceilings(1e12, 1e10)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("f32")));
}

TEST(PlanTextTest, TimesAreThereOnlyWithRates) {
  const Plan plan = Planned(32, 64);
  EXPECT_THAT(PlanText(plan, {1, 2}), Not(HasSubstr("efficiency")));
  MachineRates rates = Ceilings(1e12, 1e10);
  rates.device = "some CPU";
  ReportOptions options;
  options.rates = &rates;
  options.total_steps = 100000;
  EXPECT_THAT(PlanText(plan, {1}, options),
              AllOf(HasSubstr("some CPU"), HasSubstr("efficiency 100.0 %"),
                    HasSubstr("100000 steps in "), HasSubstr("images/s")));
  EXPECT_THAT(PlanText(plan, {2}, options), HasSubstr("no rate of the wire"));
  options.wire_bytes_per_second = 1e9;
  EXPECT_THAT(PlanText(plan, {2}, options), HasSubstr("efficiency "));
}

TEST(HumanSecondsTest, ChoosesTheUnit) {
  EXPECT_EQ(HumanSeconds(1.5), "1.5 s");
  EXPECT_EQ(HumanSeconds(600), "10 min");
  EXPECT_EQ(HumanSeconds(36000), "10 h");
  EXPECT_EQ(HumanSeconds(864000), "10 days");
}

}  // namespace
}  // namespace vitscale
