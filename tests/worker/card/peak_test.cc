#include "worker/card/peak.h"

#include "gtest/gtest.h"

namespace vitscale {
namespace {

TEST(PeakOfCardTest, ACardWhoseNameHoldsAnothersIsNotTakenForIt) {
  const auto bandwidth = [](const char* card) {
    return PeakOfCard(card, true).value().bytes_per_second;
  };
  EXPECT_EQ(bandwidth("NVIDIA H200"), 4800e9);
  EXPECT_EQ(bandwidth("NVIDIA GH200 480GB"), 4000e9);
  EXPECT_EQ(bandwidth("NVIDIA H100 80GB HBM3"), 3350e9);
  EXPECT_EQ(bandwidth("NVIDIA H100 PCIe"), 2000e9);
  EXPECT_EQ(bandwidth("NVIDIA L40S"), 864e9);
  EXPECT_EQ(bandwidth("NVIDIA L4"), 300e9);
  EXPECT_EQ(bandwidth("NVIDIA A100-SXM4-40GB"), 1555e9);
  EXPECT_EQ(bandwidth("NVIDIA A100-SXM4-80GB"), 2039e9);
  EXPECT_FALSE(PeakOfCard("NVIDIA L40", true).has_value());
  EXPECT_FALSE(PeakOfCard("NVIDIA A10G", true).has_value());
  EXPECT_FALSE(PeakOfCard("", true).has_value());
}

}  // namespace
}  // namespace vitscale
