#include "worker/collective/single_collective.h"

#include "tests/status_matchers.h"

namespace vitscale {
namespace {

TEST(SingleCollectiveTest, ExchangesItsOwnRecordAndLeavesBucketsAlone) {
  const auto collective = MakeSingleCollective();
  ASSERT_TRUE(collective->Connect(absl::Seconds(1)).ok());
  float values[2] = {1, 2};
  collective->Start(0, absl::MakeSpan(values));
  ControlRecord own;
  own.step = 9;
  const auto records = collective->ExchangeRecords(own, absl::Seconds(1));
  ASSERT_TRUE(records.ok());
  EXPECT_THAT(*records, ::testing::ElementsAre(own));
  EXPECT_EQ(values[1], 2);
  EXPECT_EQ(collective->bytes_handed_over(), 0) << "they went nowhere";
}

TEST(SingleCollectiveTest, NothingPassesAfterAnAbort) {
  const auto collective = MakeSingleCollective();
  collective->Abort();
  EXPECT_THAT(collective->ExchangeRecords({}, absl::Seconds(1)).status(),
              StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(collective->Barrier(absl::Seconds(1)), StatusIs(absl::StatusCode::kCancelled));
}

TEST(ControlRecordTest, IsPrintedWithItsNamesAndVotes) {
  ControlRecord record;
  record.rank = 1;
  record.world_size = 2;
  record.step = 12;
  record.set(RecordFlag::kStop);
  record.set_loss_sum(1.5);
  EXPECT_EQ(record.loss_sum(), 1.5);
  EXPECT_THAT(DebugString(record),
              ::testing::AllOf(::testing::HasSubstr("rank 1 of 2"), ::testing::HasSubstr("step 12"),
                               ::testing::HasSubstr("stop")));
}

}  // namespace
}  // namespace vitscale
