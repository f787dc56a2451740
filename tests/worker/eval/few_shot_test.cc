#include "worker/eval/few_shot.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/status_matchers.h"
#include "tests/worker/collective/ranks.h"
#include "worker/collective/single_collective.h"
#include "worker/eval/ridge.h"
#include "worker/eval/shots.h"

namespace vitscale {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// Image i is of class i % classes; its pixel says which set it belongs to.
class ClassSource : public ImageSource {
 public:
  ClassSource(int64_t size, int classes, uint8_t mark)
      : size_(size), classes_(classes), mark_(mark) {}
  int64_t size() const override { return size_; }
  int height() const override { return 1; }
  int width() const override { return 1; }
  int channels() const override { return 1; }
  int classes_seen() const override { return static_cast<int>(std::min<int64_t>(classes_, size_)); }
  int32_t label(int64_t index) const override { return static_cast<int32_t>(index % classes_); }
  absl::Status Read(int64_t, absl::Span<uint8_t> pixels) const override {
    pixels[0] = mark_;
    return absl::OkStatus();
  }
  std::string description() const override { return mark_ ? "the data" : "the support"; }

 private:
  const int64_t size_;
  const int classes_;
  const uint8_t mark_;
};

// Features of image i: a number that its class decides, and noise of a pattern. Counts what it
// sees.
class PatternModel : public FeatureModel {
 public:
  static constexpr int64_t kWidth = 6;
  int64_t feature_width() const override { return kWidth; }
  absl::Status Features(const Batch& batch, absl::Span<float> features) override {
    for (int64_t i = 0; i < batch.size(); ++i) {
      const int64_t sample = batch.samples[i];
      if (sample < 0) continue;
      if (seen != nullptr) {
        std::lock_guard lock(*mutex);
        EXPECT_TRUE(seen->insert({batch.images[i], sample}).second) << sample << " twice";
      }
      for (int64_t j = 0; j < kWidth; ++j) {
        const double noise = std::sin(12.9898 * sample + 78.233 * j + batch.images[i]);
        features[i * kWidth + j] =
            static_cast<float>((batch.labels[i] == j ? 1.0 : 0.0) + 0.9 * noise);
      }
      if (sample == broken && batch.images[i] == broken_set) {
        features[i * kWidth + 2] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    return absl::OkStatus();
  }
  std::mutex* mutex = nullptr;
  std::set<std::pair<uint8_t, int64_t>>* seen = nullptr;
  int64_t broken = -1;
  uint8_t broken_set = 0;
};

FewShotOptions Options() {
  FewShotOptions options;
  options.shots = {1, 3, 50};
  options.l2 = {1.0, 1024.0};
  options.batch = 8;
  options.timeout = absl::Seconds(30);
  return options;
}

FewShotResult RunOn(int ranks, const FewShotOptions& options) {
  const ClassSource support(83, 5, 0), data(101, 5, 1);
  std::mutex mutex;
  std::set<std::pair<uint8_t, int64_t>> seen;
  std::vector<FewShotResult> results(ranks);
  const auto body = [&](Collective& collective) {
    PatternModel model;
    model.mutex = &mutex;
    model.seen = &seen;
    bool failed = false;
    const auto result = FewShot(options, support, data, model, collective, &failed);
    ASSERT_TRUE(result.ok()) << result.status();
    results[collective.rank()] = *result;
  };
  RunOnRanks(ranks, body);
  const int64_t of_data = std::count_if(seen.begin(), seen.end(), [](auto& s) { return s.first; });
  EXPECT_EQ(of_data, 101) << "every image once, whatever the number of ranks";
  for (const FewShotResult& result : results) EXPECT_EQ(result.accuracy, results[0].accuracy);
  return results[0];
}

TEST(FewShotTest, TheResultDoesNotDependOnTheNumberOfRanks) {
  const FewShotResult one = RunOn(1, Options());
  EXPECT_EQ(one.images, 101);
  ASSERT_THAT(one.accuracy, SizeIs(3));
  EXPECT_GT(one.accuracy[2][0], one.accuracy[0][0]) << "more shots are better";
  EXPECT_GT(one.accuracy[2][0], 0.5) << "five classes";
  for (int ranks : {2, 3}) EXPECT_EQ(RunOn(ranks, Options()).accuracy, one.accuracy) << ranks;
}

TEST(FewShotTest, OnlyDrawnImagesOfTheSupportAreRun) {
  FewShotOptions options = Options();
  options.shots = {2};
  options.seeds = 1;
  std::mutex mutex;
  std::set<std::pair<uint8_t, int64_t>> seen;
  PatternModel model;
  model.mutex = &mutex;
  model.seen = &seen;
  bool failed = false;
  ASSERT_TRUE(FewShot(options, ClassSource(83, 5, 0), ClassSource(9, 5, 1), model,
                      *MakeSingleCollective(), &failed)
                  .ok());
  EXPECT_THAT(seen, SizeIs(5 * 2 + 9));
}

TEST(FewShotTest, FeaturesThatAreNotFiniteAreAnErrorOnEveryRankThatNamesTheImage) {
  for (const uint8_t set : {0, 1}) {
    Gang(2).RunThreads([&](Collective& collective) {
      PatternModel model;
      model.broken = 42;
      model.broken_set = set;
      bool failed = true;
      const auto result = FewShot(Options(), ClassSource(83, 5, 0), ClassSource(101, 5, 1), model,
                                  collective, &failed);
      EXPECT_THAT(result.status(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                            AllOf(HasSubstr(set == 0 ? "support" : "data"),
                                                  HasSubstr("image 42"), HasSubstr("not finite"))));
      EXPECT_FALSE(failed);
    });
  }
}

TEST(FewShotTest, ALabelThatTheSupportDoesNotHaveIsAnErrorThatNamesTheImage) {
  PatternModel model;
  bool failed = false;
  EXPECT_THAT(
      FewShot(Options(), ClassSource(83, 5, 0), ClassSource(30, 7, 1), model,
              *MakeSingleCollective(), &failed)
          .status(),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("image 5 of the data"), HasSubstr("label 5"), HasSubstr("0 to 4"))));
}

TEST(FewShotTest, SaysWhetherTheExchangeFailedAndStopsWhereItIsToldTo) {
  PatternModel model;
  bool failed = false;
  const auto aborted = MakeSingleCollective();
  aborted->Abort();
  EXPECT_FALSE(
      FewShot(Options(), ClassSource(83, 5, 0), ClassSource(9, 5, 1), model, *aborted, &failed)
          .ok());
  EXPECT_TRUE(failed);

  FewShotOptions options = Options();
  for (const int allowed : {0, 12, 20}) {  // among batches, and among solutions
    std::atomic<int> asked = 0;
    options.cancelled = [&] { return asked++ >= allowed; };
    EXPECT_THAT(FewShot(options, ClassSource(83, 5, 0), ClassSource(9, 5, 1), model,
                        *MakeSingleCollective(), &failed)
                    .status(),
                StatusIs(absl::StatusCode::kCancelled));
    EXPECT_FALSE(failed);
  }
}

TEST(FewShotTest, ValuesHaveOneNamePerNumberOfShotsAndPerStrength) {
  FewShotOptions options;
  options.shots = {1, 10};
  options.l2 = {1024};
  EXPECT_THAT(FewShotValues(options, {100, {{0.25}, {0.5}}}),
              UnorderedElementsAre(Pair("1shot", 0.25), Pair("10shot", 0.5)));
  options.l2 = {0.0009765625, 1024, 524288};
  const auto values = FewShotValues(options, {100, {{0.25, 0.125, 0.0}, {0.5, 0.75, 0.1}}});
  EXPECT_THAT(values, SizeIs(8));
  EXPECT_THAT(values, Contains(Pair("10shot_l2_1024", 0.75)));
  EXPECT_THAT(values, Contains(Pair("10shot_l2_524288", 0.1)));
  EXPECT_THAT(values, Contains(Pair("1shot_l2_0.0009765625", 0.25)));
  EXPECT_THAT(values, Contains(Pair("10shot", 0.75))) << "the best of them";
}

TEST(ShotsTest, FewerShotsArePartOfMoreAndAClassGivesAllItHasAtMost) {
  const std::vector<int32_t> labels = {0, 2, 0, 2, 2, 0, 0, 2, 0};  // no image of class 1
  const ShotsByClass drawn = DrawShots(labels, 3, 5, 7);
  EXPECT_THAT(drawn[0], UnorderedElementsAre(0, 2, 5, 6, 8));
  EXPECT_THAT(drawn[1], IsEmpty());
  EXPECT_THAT(drawn[2], UnorderedElementsAre(1, 3, 4, 7)) << "4 images, 5 shots";
  EXPECT_THAT(FirstShots(drawn, 1), ElementsAre(drawn[0][0], drawn[2][0]));
  EXPECT_THAT(FirstShots(drawn, 2),
              ElementsAre(drawn[0][0], drawn[0][1], drawn[2][0], drawn[2][1]));
  EXPECT_NE(DrawShots(labels, 3, 5, 8), drawn) << "another seed, another draw";
}

// Two classes that one feature tells apart, beside constant ones.
TEST(RidgeTest, ConstantFeaturesAndFeaturesOfAnyScaleAreHarmless) {
  const std::vector<std::vector<float>> features = {
      {3, 1e-20f, 1e6f}, {3, 2e-20f, 1e6f}, {3, 1e-20f, 2e6f}, {3, 2e-20f, 2e6f}};
  FeatureRows rows;
  for (const auto& row : features) rows.push_back(row.data());
  const std::vector<int32_t> labels = {0, 0, 1, 1};
  const Standardisation standardisation(rows, 3);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Ridge ridge, Ridge::Fit(standardisation, rows, labels, 2));
  for (const double l2 : {1e-4, 1.0, 1e12}) {
    std::vector<double> weights;
    ridge.Weights(l2, &weights);
    for (double weight : weights) EXPECT_TRUE(std::isfinite(weight)) << l2;
    RidgePredictor predictor;
    std::vector<float> flat;
    for (const auto& row : features) flat.insert(flat.end(), row.begin(), row.end());
    EXPECT_THAT(predictor.Classes(standardisation, flat.data(), 4, weights, 2),
                ElementsAre(0, 0, 1, 1))
        << l2;
  }
}

}  // namespace
}  // namespace vitscale
