#include "proto/spec/units.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

TEST(LengthTest, ReadsEveryUnitInBothNumbers) {
  for (const auto& [text, want] : std::vector<std::pair<std::string, Length>>{
           {"10000 steps", Length::Steps(10000)},
           {"1 step", Length::Steps(1)},
           {" 0 steps ", Length::Steps(0)},
           {"1280000 images", {1280000'000000, LengthUnit::kImages}},
           {"90 epochs", {90'000000, LengthUnit::kEpochs}},
           {"0.5 epoch", {500000, LengthUnit::kEpochs}},
           {"3epochs", {3'000000, LengthUnit::kEpochs}}}) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const Length length, ParseLength(text));
    EXPECT_EQ(length, want) << text;
  }
}

TEST(LengthTest, RefusesWhatIsNoLengthAndShowsAnExample) {
  for (const char* text : {"", "steps", "10000", "-1 steps", "1e4 steps", "1.5 steps", "1. epochs",
                           ".5 epochs", "1.2.3 epochs", "0.1234567 epochs", "10 weeks",
                           "9999999999999 steps", "99999999999999999999999 epochs", "1 steps x"}) {
    EXPECT_THAT(ParseLength(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("wanted")))
        << text;
  }
  EXPECT_THAT(ParseLength("10000"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"10000 steps\"")));
}

TEST(LengthTest, ALengthThatHasItsUnitIsToldWhatIsWrongWithItsNumber) {
  for (const auto& [text, wanted] : std::vector<std::pair<std::string, std::string>>{
           {"0.0000001 epochs", "wanted at most 6 digits after the point"},
           {"9223372036854775807 images", "wanted at most 1000000000000 of them"},
           {"1.2.3 epochs", "wanted a number such as 10000 or 0.5 before the unit"}}) {
    EXPECT_THAT(ParseLength(text),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(absl::StrCat("was \"", text, "\", ", wanted))));
  }
}

TEST(LengthTest, WritesWhatItReads) {
  for (const char* text :
       {"10000 steps", "1 steps", "0.5 epochs", "12.000001 epochs", "7 images"}) {
    EXPECT_EQ(FormatLength(*ParseLength(text)), text);
  }
}

TEST(LengthTest, ImagesRoundUpToWholeStepsAndEpochsToTheNearest) {
  EXPECT_EQ(*LengthInSteps(*ParseLength("257 images"), 256, 0), 2);
  EXPECT_EQ(*LengthInSteps(*ParseLength("10 epochs"), 256, 60000), 2340);
  EXPECT_EQ(*LengthInSteps(*ParseLength("0.5 epochs"), 256, 60000), 117);
  EXPECT_EQ(*LengthInSteps(*ParseLength("7 steps"), 256, 0), 7);
  EXPECT_THAT(LengthInSteps(*ParseLength("1 epochs"), 256, 255),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("255 training images")));
}

TEST(DurationTest, ReadsAndWritesDurations) {
  EXPECT_EQ(*ParseDuration("90s"), absl::Seconds(90));
  EXPECT_EQ(*ParseDuration("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseDuration("2d12h"), absl::Hours(60));
  EXPECT_EQ(*ParseDuration("250ms"), absl::Milliseconds(250));
  for (const char* text : {"", "90", "-3s", "inf", "d", "1 fortnight", "99999999d"}) {
    EXPECT_THAT(ParseDuration(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
  EXPECT_EQ(DurationText(absl::Seconds(120)), "120s");
  EXPECT_EQ(DurationText(absl::Minutes(15)), "15m");
  EXPECT_EQ(DurationText(absl::Hours(2)), "2h");
  EXPECT_EQ(DurationText(absl::Milliseconds(1500)), "1500ms");
}

TEST(SizeTest, KnowsPowersOf1024And1000) {
  EXPECT_EQ(*ParseSize("64Mi"), 64 << 20);
  EXPECT_EQ(*ParseSize("64 MiB"), 64 << 20);
  EXPECT_EQ(*ParseSize("2G"), 2'000'000'000);
  EXPECT_EQ(*ParseSize("2Ki"), 2048);
  EXPECT_EQ(*ParseSize("512"), 512);
  EXPECT_EQ(*ParseSize("512B"), 512);
  EXPECT_EQ(*ParseSize("1.5Gi"), 3LL << 29);
  EXPECT_EQ(*ParseSize("1.2G"), 1'200'000'000);
  EXPECT_EQ(*ParseSize("0.1 KiB"), 102) << "what is left of a byte is cut off";
  EXPECT_EQ(*ParseSize("1.000001P"), 1'000'001'000'000'000);
  EXPECT_EQ(*ParseSize("9223372036854775807"), std::numeric_limits<int64_t>::max());
  for (const char* text :
       {"", "Mi", "64Mx", "-1", "64i", "99999999999Ti", "1.5", "1.5B", ".5Gi", "1.Gi", "1.2.3Gi",
        "1.0000001Gi", "9223372036854775808", "8191.999999999Pi", "8192Pi"}) {
    EXPECT_THAT(ParseSize(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
  EXPECT_EQ(FormatSize(64 << 20), "64.0 MiB");
  EXPECT_EQ(FormatSize(512), "512 B");
}

}  // namespace
}  // namespace vitscale
