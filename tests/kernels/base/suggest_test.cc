#include "kernels/base/suggest.h"

#include "gmock/gmock.h"

namespace vitscale {
namespace {

TEST(DidYouMeanTest, FindsSlipsOfTheFinger) {
  EXPECT_EQ(DidYouMean("flip_rl", {"value_range", "flip_lr"}), ", did you mean \"flip_lr\"?");
  EXPECT_EQ(ClosestName("Learning_Rate", {"learning_rate", "momentum"}), "learning_rate");
  EXPECT_EQ(ClosestName("l", {"lr"}), "lr");
}

TEST(DidYouMeanTest, SaysNothingWhenNothingIsNear) {
  EXPECT_EQ(DidYouMean("resize", {"value_range", "flip_lr"}), "");
  EXPECT_EQ(DidYouMean("x", {}), "");
  EXPECT_EQ(DidYouMean(std::string(1000, 'x'), {"x"}), "");
}

}  // namespace
}  // namespace vitscale
