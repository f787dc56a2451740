// The measures that the golden tests judge by, and that a file written by Python's safetensors is
// read.

#include <cmath>

#include "tests/golden/counter_draws.h"
#include "tests/golden/golden.h"

namespace vitscale::golden {
namespace {

using Numbers = std::vector<double>;

TEST(RelativeL2Test, IsTheNormOfTheDifferenceOverTheNormOfTheTruth) {
  EXPECT_DOUBLE_EQ(RelativeL2(Numbers{3.0, 4.5}, Numbers{3.0, 4.0}), 0.1);
  EXPECT_EQ(RelativeL2(Numbers{0.0, 0.0}, Numbers{0.0, 0.0}), 0);
  EXPECT_TRUE(std::isinf(RelativeL2(Numbers{0.0, 1e-30}, Numbers{0.0, 0.0})));
  EXPECT_TRUE(std::isinf(RelativeL2(Numbers{0.0, NAN}, Numbers{0.0, 1.0})));
  EXPECT_TRUE(std::isinf(RelativeL2(Numbers{1.0}, Numbers{1.0, 1.0})));
}

TEST(UlpDistanceTest, CountsRepresentableValuesAcrossZeroToo) {
  EXPECT_EQ(UlpDistance(1.0f, std::nextafterf(1.0f, 2.0f)), 1);
  EXPECT_EQ(UlpDistance(0.0f, -0.0f), 0);
  EXPECT_EQ(UlpDistance(-1e-45f, 1e-45f), 2);
  EXPECT_EQ(UlpDistance(1.0f, NAN), int64_t{1} << 32);
  EXPECT_EQ(Bf16UlpDistance(0x3f80, 0x3f82), 2);
  EXPECT_EQ(Bf16UlpDistance(0x8000, 0x0000), 0);
}

TEST(UlpErrorTest, IsAFractionOfTheUlpAtTheTruth) {
  EXPECT_DOUBLE_EQ(UlpError(1.0f, 1.0 + 0x1p-25), 0.25);
  EXPECT_DOUBLE_EQ(UlpError(1.0f, 1.0 + 0x1p-23), 1.0);
  EXPECT_TRUE(std::isnan(UlpError(NAN, 1.0)));
}

TEST(GoldenFileTest, ReadsWhatPythonsSafetensorsWrote) {
  const GoldenFile file("self_test");
  EXPECT_EQ(file.Note("what"), "one tensor of every dtype");
  EXPECT_EQ(file.Values("f64"), (std::vector<double>{0.1, -2.0}));
  EXPECT_EQ(file.Floats("f32"), (std::vector<float>{0.1f, -2.0f}));
  EXPECT_EQ(file.Floats("bf16"), (std::vector<float>{0.10009765625f, -2.0f}));
  EXPECT_EQ(file.Integers("i64"), (std::vector<int64_t>{-5, int64_t{1} << 40}));
  EXPECT_EQ(file.Integers("i32"), (std::vector<int64_t>{-5, 7}));
  EXPECT_EQ(file.Integers("u8"), (std::vector<int64_t>{0, 255}));
  EXPECT_EQ(file.ShapeOf("f32"), (Shape{2, 1}));
  EXPECT_FALSE(file.Has("f16"));
}

TEST(CounterDrawsTest, AreTheSameBitsAsInPython) {
  EXPECT_EQ(UniformDraws(6, uint64_t{7} << 32 | 5, 3, 2), GoldenFile("self_test").Floats("draws"));
}

}  // namespace
}  // namespace vitscale::golden
