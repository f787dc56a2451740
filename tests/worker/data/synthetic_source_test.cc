#include "worker/data/synthetic_source.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

std::unique_ptr<ImageSource> Make(uint64_t seed, int64_t images = 2000) {
  return *MakeSyntheticSource(images, {10, 8, 8, 3, seed});
}

std::vector<uint8_t> Pixels(const ImageSource& source, int64_t index) {
  std::vector<uint8_t> pixels(source.image_bytes());
  EXPECT_THAT(source.Read(index, absl::MakeSpan(pixels)), IsOk());
  return pixels;
}

TEST(SyntheticSourceTest, IsAPureFunctionOfSeedAndIndex) {
  const auto a = Make(1), b = Make(1), c = Make(2);
  EXPECT_EQ(Pixels(*a, 7), Pixels(*b, 7));
  EXPECT_EQ(a->label(7), b->label(7));
  EXPECT_NE(Pixels(*a, 7), Pixels(*c, 7));
  EXPECT_NE(Pixels(*a, 7), Pixels(*a, 8));
}

// 2,000 labels in 10 classes: 200 each, standard deviation sqrt(2000 * 0.1 * 0.9) = 13.4; five of
// them.
TEST(SyntheticSourceTest, ClassesAreEquallyFrequent) {
  const auto source = Make(1);
  int count[10] = {};
  for (int64_t i = 0; i < source->size(); ++i) ++count[source->label(i)];
  for (const int n : count) EXPECT_NEAR(n, 200, 5 * 13.4);
}

// The nearest class mean of the first half names the class of nearly every image of the second:
// learnable.
TEST(SyntheticSourceTest, AClassifierOfMeansLearnsIt) {
  const auto source = Make(1);
  const int64_t bytes = source->image_bytes(), half = source->size() / 2;
  std::vector<std::vector<double>> mean(10, std::vector<double>(bytes));
  std::vector<double> count(10);
  for (int64_t i = 0; i < half; ++i) {
    const std::vector<uint8_t> pixels = Pixels(*source, i);
    const int label = source->label(i);
    ++count[label];
    for (int64_t p = 0; p < bytes; ++p) mean[label][p] += pixels[p];
  }
  int correct = 0;
  for (int64_t i = half; i < source->size(); ++i) {
    const std::vector<uint8_t> pixels = Pixels(*source, i);
    int best = 0;
    double best_distance = INFINITY;
    for (int c = 0; c < 10; ++c) {
      double distance = 0;
      for (int64_t p = 0; p < bytes; ++p)
        distance += std::pow(pixels[p] - mean[c][p] / count[c], 2);
      if (distance < best_distance) best = c, best_distance = distance;
    }
    correct += best == source->label(i);
  }
  EXPECT_GT(correct, 0.99 * half);
}

TEST(SyntheticSourceTest, WantsPositiveNumbers) {
  EXPECT_THAT(MakeSyntheticSource(0, {10, 8, 8, 3, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(MakeSyntheticSource(1, {0, 8, 8, 3, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(MakeSyntheticSource(1, {10, 8, 8, 0, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace vitscale
