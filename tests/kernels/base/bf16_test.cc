#include "kernels/base/bf16.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"

namespace vitscale {
namespace {

TEST(Bf16Test, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(ToBf16(1.0f), 0x3f80);
  EXPECT_EQ(ToBf16(1.0f + 0x1p-8f), 0x3f80);  // half way to the next: the even one is below
  EXPECT_EQ(ToBf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);  // more than half
  EXPECT_EQ(ToBf16(1.0f + 0x1p-7f + 0x1p-8f), 0x3f82);   // half way: the even one is above
  EXPECT_EQ(ToBf16(-1.0f - 0x1p-8f), 0xbf80);
}

TEST(Bf16Test, KeepsNanInfinityZeroAndOverflowsToInfinity) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(FromBf16(ToBf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(
      std::isnan(FromBf16(ToBf16(std::bit_cast<float>(0x7f800001u)))));  // payload in the lost half
  EXPECT_EQ(FromBf16(ToBf16(infinity)), infinity);
  EXPECT_EQ(FromBf16(ToBf16(std::numeric_limits<float>::max())), infinity);
  EXPECT_TRUE(std::signbit(FromBf16(ToBf16(-0.0f))));
}

TEST(Bf16Test, EveryBf16ValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = FromBf16(static_cast<uint16_t>(bits));
    if (!std::isnan(value)) {
      EXPECT_EQ(ToBf16(value), bits);
    }
  }
}

}  // namespace
}  // namespace vitscale
