// The schedules against the closed forms of big_vision (schedule_golden.py).

#include <cmath>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/golden/golden.h"
#include "worker/plan/schedule.h"

namespace vitscale::golden {
namespace {

ScheduleConfig ConfigOf(const std::vector<int64_t>& c) {
  constexpr ScheduleKind kKinds[] = {ScheduleKind::kRsqrt, ScheduleKind::kCosine,
                                     ScheduleKind::kLinear, ScheduleKind::kConstant};
  return {kKinds[c[0]], c[1], c[2], c[3], c[4], c[5]};
}

// f64 on both sides; a handful of roundings.
TEST(ScheduleGoldenTest, EveryKindHasBigVisionsFactorAtEveryStepLookedAt) {
  const GoldenFile file("schedule");
  ErrorTable table;
  int cases = 0;
  for (const std::string& name : file.Names()) {
    const size_t end = name.rfind(".config");
    if (end == std::string::npos) continue;
    ++cases;
    const std::string key = name.substr(0, end);
    const ScheduleConfig config = ConfigOf(file.Integers(name));
    const std::vector<int64_t> steps = file.Integers(key + ".step");
    const std::vector<double> want = file.Values(key + ".factor");
    for (size_t i = 0; i < steps.size(); ++i) {
      table.Expect("schedule factor", std::abs(ScheduleFactor(config, steps[i]) - want[i]), 1e-15,
                   "absolute", absl::StrCat(key, " step ", steps[i]));
    }
  }
  EXPECT_EQ(cases, 10);
}

// Rounded to four digits, as the configuration of g/14 gives them.
TEST(ScheduleGoldenTest, TheReleasedConfigurationGivesThePublishedLearningRates) {
  const GoldenFile file("schedule");
  const std::vector<int64_t> steps = file.Integers("released.step");
  const std::vector<double> rates = file.Values("released.rate");
  const struct {
    int64_t step;
    double rate;
  } published[] = {{10000, 8.000e-4},  {20000, 5.657e-4},  {50000, 3.578e-4},
                   {100000, 2.530e-4}, {500000, 1.131e-4}, {950000, 8.208e-5}};
  for (const auto& p : published) {
    const auto at = std::find(steps.begin(), steps.end(), p.step);
    ASSERT_NE(at, steps.end()) << p.step;
    EXPECT_NEAR(rates[at - steps.begin()], p.rate, 5e-4 * p.rate) << p.step;
  }
  EXPECT_EQ(rates.front(), 0);  // step 0
}

}  // namespace
}  // namespace vitscale::golden
