#include "worker/plan/schedule.h"

#include <cmath>

#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;

constexpr double kPeak = 8e-4;  // of the released g/14 configuration

ScheduleConfig ReleasedG() { return {ScheduleKind::kRsqrt, 10000, 10000, 50000, 1000000, 0}; }

// Values of 8e-4 * s(k), rounded to four digits.
TEST(ScheduleTest, RsqrtGivesTheLearningRatesOfTheReleasedConfiguration) {
  const struct {
    int64_t step;
    double rate;
  } cases[] = {{10000, 8.000e-4},  {20000, 5.657e-4},  {50000, 3.578e-4},
               {100000, 2.530e-4}, {500000, 1.131e-4}, {950000, 8.208e-5}};
  for (const auto& c : cases) {
    EXPECT_NEAR(kPeak * ScheduleFactor(ReleasedG(), c.step), c.rate, 5e-4 * c.rate) << c.step;
  }
}

TEST(ScheduleTest, TheFirstStepOfAWarmUpHasFactorZero) {
  EXPECT_EQ(ScheduleFactor(ReleasedG(), 0), 0);
  EXPECT_DOUBLE_EQ(ScheduleFactor(ReleasedG(), 5000), 0.5);
}

TEST(ScheduleTest, TheLastStepHasOneFiftyThousandthOfTheRsqrtFactor) {
  ScheduleConfig without = ReleasedG();
  without.cooldown = 0;
  EXPECT_DOUBLE_EQ(ScheduleFactor(ReleasedG(), 999999), ScheduleFactor(without, 999999) / 50000);
  EXPECT_EQ(ScheduleFactor(ReleasedG(), 1000000), 0);
}

TEST(ScheduleTest, ABranchWithANewTotalContinuesTheSameFactorBeforeItsCooldown) {
  ScheduleConfig branch = ReleasedG();
  branch.total = 300000;
  EXPECT_EQ(ScheduleFactor(branch, 200000), ScheduleFactor(ReleasedG(), 200000));
}

TEST(ScheduleTest, ShiftMovesTheCountAndTheWarmUpPeakAlike) {
  ScheduleConfig shifted = ReleasedG();
  shifted.shift = 10000;
  EXPECT_DOUBLE_EQ(ScheduleFactor(shifted, 10000), 1 / std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(ScheduleFactor(shifted, 5000), 0.5 / std::sqrt(2.0));
}

TEST(ScheduleTest, CosineLinearAndConstantHaveTheirMidpoints) {
  ScheduleConfig config{ScheduleKind::kCosine, 100, 1, 0, 1100, 0};
  EXPECT_NEAR(ScheduleFactor(config, 600), 0.5, 1e-15);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 100), 1);
  config.kind = ScheduleKind::kLinear;
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 350), 0.75);
  config.kind = ScheduleKind::kConstant;
  config.cooldown = 200;
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 899), 1);
  EXPECT_DOUBLE_EQ(ScheduleFactor(config, 1000), 0.5);
}

TEST(ScheduleTest, ARunThatIsAllWarmUpAndCooldownHasNoPlateau) {
  const ScheduleConfig config{ScheduleKind::kRsqrt, 10000, 10000, 10000, 20000, 0};
  ASSERT_THAT(ValidateSchedule(config), IsOk());
  EXPECT_LT(ScheduleFactor(config, 9999), 1);
  EXPECT_LT(ScheduleFactor(config, 10001), 1);
}

TEST(ScheduleTest, BadLengthsAreNamed) {
  const auto expect = [](ScheduleConfig config, const char* field) {
    EXPECT_THAT(ValidateSchedule(config),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)));
  };
  expect({.total = 0}, "schedule.total is 0");
  expect({.warmup = 11, .total = 10}, "schedule.warmup is 11");
  expect({.cooldown = -1, .total = 10}, "schedule.cooldown is -1");
  expect({.timescale = 0, .total = 10}, "schedule.timescale is 0");
  expect({.total = 10, .shift = -1}, "schedule.shift is -1");
}

TEST(AdafactorBeta2Test, StartsAtZeroAndReachesItsCapAtStep5624) {
  EXPECT_EQ(AdafactorBeta2(0, 0.999), 0);
  EXPECT_DOUBLE_EQ(AdafactorBeta2(1, 0.999), 1 - std::pow(2, -0.8));
  EXPECT_LT(AdafactorBeta2(5621, 0.999), 0.999);  // t = 5622
  EXPECT_EQ(AdafactorBeta2(5623, 0.999), 0.999);  // t = 5624
}

}  // namespace
}  // namespace vitscale
