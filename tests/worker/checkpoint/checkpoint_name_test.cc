#include "worker/checkpoint/checkpoint_name.h"

#include "gmock/gmock.h"
#include "tests/status_matchers.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {
namespace {

TEST(CheckpointNameTest, TextAndParseAreInverse) {
  const CheckpointName name{3, 7, 1000, false};
  EXPECT_EQ(name.Text(), "a0003.g0007.step_000001000");
  EXPECT_EQ(*CheckpointName::Parse(name.Text()), name);
  const CheckpointName large{12345, 123456, 12345678901, true};
  EXPECT_EQ(large.Text(), "a12345.g123456.step_12345678901.emergency");
  EXPECT_EQ(*CheckpointName::Parse(large.Text()), large);
}

TEST(CheckpointNameTest, RefusesEveryOtherSpelling) {
  for (const char* text : {"", "a3.g7.step_1000", "a0003.g0007.step_1000", "a0003.g0007",
                           "bad.a0003.g0007.step_000001000", "a0003.g0007.step_000001000.tmp",
                           "a-003.g0007.step_000001000", "a0003.g0007.step_000001000/..",
                           "A0003.g0007.step_000001000"}) {
    EXPECT_THAT(CheckpointName::Parse(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

TEST(CheckpointIdTest, HasJobAndName) {
  const CheckpointName name{3, 7, 1000, false};
  const std::string id = CheckpointId("k3", name);
  EXPECT_EQ(id, "k3/a0003.g0007.step_000001000");
  EXPECT_EQ(ParseCheckpointId(id)->job_id, "k3");
  EXPECT_EQ(ParseCheckpointId(id)->name, name);
  for (const char* text : {"", "k3", "/a0003.g0007.step_000001000", "../a0003.g0007.step_000001000",
                           "k3/x/a0003.g0007.step_000001000"}) {
    EXPECT_FALSE(ParseCheckpointId(text).ok()) << text;
  }
}

TEST(SharePartsTest, KeepsTensorsWholeAndTheRanksEven) {
  EXPECT_THAT(ShareParts({5, 1, 1, 1, 1, 1}, 2), testing::ElementsAre(0, 1, 1, 1, 1, 1));
  EXPECT_THAT(ShareParts({1, 9, 1}, 1), testing::ElementsAre(0, 0, 0));
  EXPECT_THAT(ShareParts({4, 4, 4}, 5), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(ShareParts({}, 2), testing::IsEmpty());
}

}  // namespace
}  // namespace vitscale
