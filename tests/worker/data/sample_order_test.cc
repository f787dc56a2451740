#include "worker/data/sample_order.h"

#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

std::vector<int64_t> Epoch(const SampleOrder& order, int64_t epoch) {
  std::vector<int64_t> samples;
  for (int64_t step = epoch * order.steps_per_epoch(); step < (epoch + 1) * order.steps_per_epoch();
       ++step) {
    for (int64_t p = 0; p < order.batch_global(); ++p) {
      const SamplePlace place = order.At(step, p);
      EXPECT_EQ(place.epoch, epoch);
      samples.push_back(place.sample);
    }
  }
  return samples;
}

TEST(SampleOrderTest, AnEpochVisitsEverySampleOnceButTheRemainder) {
  const SampleOrder order = *SampleOrder::Create(1, 1003, 100);
  EXPECT_EQ(order.steps_per_epoch(), 10);
  std::set<int64_t> ever;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    const std::vector<int64_t> samples = Epoch(order, epoch);
    const std::set<int64_t> once(samples.begin(), samples.end());
    EXPECT_EQ(once.size(), 1000u);
    EXPECT_LT(*once.rbegin(), 1003);
    ever.insert(once.begin(), once.end());
  }
  EXPECT_EQ(ever.size(), 1003u);  // the remainder is another one in each epoch
}

TEST(SampleOrderTest, EpochsAndSeedsHaveTheirOwnOrder) {
  const SampleOrder one = *SampleOrder::Create(1, 1000, 100),
                    two = *SampleOrder::Create(2, 1000, 100);
  EXPECT_NE(Epoch(one, 0), Epoch(one, 1));
  EXPECT_NE(Epoch(one, 0), Epoch(two, 0));
  EXPECT_EQ(Epoch(one, 3), Epoch(*SampleOrder::Create(1, 1000, 100), 3));
}

TEST(SampleOrderTest, BatchMustFitTheData) {
  EXPECT_THAT(SampleOrder::Create(1, 100, 100), IsOk());
  EXPECT_THAT(
      SampleOrder::Create(1, 100, 101),
      StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("batch.global is 101")));
  EXPECT_THAT(SampleOrder::Create(1, 100, 0), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace vitscale
