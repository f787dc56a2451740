#include <cmath>

#include "gmock/gmock.h"
#include "kernels/base/philox.h"

namespace vitscale {
namespace {

using testing::ElementsAre;

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds).
TEST(PhiloxTest, MatchesThePublishedKnownAnswers) {
  EXPECT_THAT(Philox(0, {0, 0, 0, 0}), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox(0xffffffffffffffffull, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox(0x299f31d0a4093822ull, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(DrawsTest, ArePureFunctionsOfTheirKeys) {
  Draws a(1, DrawPurpose::kCrop, 2, 3), b(1, DrawPurpose::kCrop, 2, 3);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Bits(), b.Bits());
}

TEST(DrawsTest, DifferWhenAnyKeyDiffers) {
  const uint64_t base = Draws(1, DrawPurpose::kCrop, 2, 3).Bits64();
  EXPECT_NE(base, Draws(2, DrawPurpose::kCrop, 2, 3).Bits64());
  EXPECT_NE(base, Draws(1, DrawPurpose::kFlip, 2, 3).Bits64());
  EXPECT_NE(base, Draws(1, DrawPurpose::kCrop, 3, 3).Bits64());
  EXPECT_NE(base, Draws(1, DrawPurpose::kCrop, 2, 4).Bits64());
  EXPECT_NE(base, Draws(1, DrawPurpose::kCrop, 2, 3 + (1ull << 40)).Bits64());
}

// n draws: the mean of n uniforms has standard deviation 1 / sqrt(12 n), that of n normals 1 /
// sqrt(n), and the mean of their squares sqrt(2 / n). Five of them; the sequence is fixed, so the
// test cannot flicker.
TEST(DrawsTest, UniformAndNormalHaveTheRightMoments) {
  constexpr int kCount = 100000;
  Draws draws(7, DrawPurpose::kTest, 0, 0);
  double uniform = 0, floats = 0, normal = 0, squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double value = draws.Uniform(), one = draws.UniformFloat(), bell = draws.Normal();
    ASSERT_TRUE(value >= 0 && value < 1 && one >= 0 && one < 1);
    uniform += value;
    floats += one;
    normal += bell;
    squares += bell * bell;
  }
  EXPECT_NEAR(uniform / kCount, 0.5, 5 / std::sqrt(12.0 * kCount));
  EXPECT_NEAR(floats / kCount, 0.5, 5 / std::sqrt(12.0 * kCount));
  EXPECT_NEAR(normal / kCount, 0.0, 5 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 1.0, 5 * std::sqrt(2.0 / kCount));
}

TEST(DrawsTest, BelowHitsEveryValueEquallyOften) {
  constexpr int kCount = 60000;
  int hits[6] = {};
  Draws draws(7, DrawPurpose::kTest, 1, 0);
  for (int i = 0; i < kCount; ++i) ++hits[draws.Below(6)];
  for (int count : hits) EXPECT_NEAR(count, kCount / 6, 5 * std::sqrt(kCount * 5.0 / 36));
  EXPECT_EQ(draws.Below(1), 0u);
}

}  // namespace
}  // namespace vitscale
