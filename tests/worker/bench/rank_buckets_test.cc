#include "worker/bench/rank_buckets.h"

#include <cmath>

#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;

TEST(RankBucketsTest, EveryValueOfEveryBucketIsFilledAndLookedAt) {
  const std::vector<int64_t> sizes = {1, 70'000, 3};  // the second is written in two pieces
  VITSCALE_ASSERT_OK_AND_ASSIGN(RankBuckets buckets, RankBuckets::Create("cpu", sizes));
  ASSERT_EQ(buckets.size(), sizes.size());
  ASSERT_THAT(buckets.Fill(2), IsOk());
  for (size_t b = 0; b < sizes.size(); ++b) {
    const absl::Span<float> values = buckets[b];
    ASSERT_EQ(values.size(), static_cast<size_t>(sizes[b]));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(values.data()) % kTensorAlignment, 0u);
    EXPECT_THAT(std::vector<float>(values.begin(), values.end()), ::testing::Each(2.0f));
    for (const size_t i : {size_t{0}, values.size() - 1}) {
      for (const float wrong : {5.0f, std::nanf("")}) {
        values[i] = wrong;
        EXPECT_THAT(buckets.ExpectAll(2),
                    StatusIs(absl::StatusCode::kInternal, HasSubstr(", want 2")))
            << "bucket " << b << ", value " << i;
      }
      values[i] = 2;
    }
  }
  EXPECT_THAT(buckets.ExpectAll(2), IsOk());
}

TEST(RankBucketsTest, ADeviceThatDoesNotExistIsTheBackendsError) {
  EXPECT_THAT(RankBuckets::Create("tpu", {1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'tpu'")));
}

}  // namespace
}  // namespace vitscale
