// The few-shot protocol against numpy and scipy in f64, on the same features: the same draws, and
// the same prediction for every image whose best two scores are further apart than rounding.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden.h"
#include "tests/status_matchers.h"
#include "worker/collective/single_collective.h"
#include "worker/eval/few_shot.h"
#include "worker/eval/numpy_random.h"
#include "worker/eval/ridge.h"
#include "worker/eval/shots.h"

namespace vitscale {
namespace {

using golden::GoldenFile;

constexpr double kMarginMin = 1e-9;

template <typename T>
std::vector<T> As(const std::vector<int64_t>& values) {
  return std::vector<T>(values.begin(), values.end());
}

// What the script had before it.
struct Given {
  GoldenFile file{"few_shot"};
  std::vector<float> support = file.Floats("support"), data = file.Floats("data");
  std::vector<int32_t> support_labels = As<int32_t>(file.Integers("support_labels"));
  std::vector<int32_t> data_labels = As<int32_t>(file.Integers("data_labels"));
  std::vector<int> shots = As<int>(file.Integers("shots"));
  std::vector<double> l2 = file.Values("l2");
  int seeds = static_cast<int>(file.Integers("seeds").size());
  int64_t width = file.ShapeOf("support")[1];
  int classes = 1 + *std::max_element(support_labels.begin(), support_labels.end());
};

TEST(NumpyRandomGoldenTest, PermutationsAreThoseOfNumpysDefaultGenerator) {
  const GoldenFile file("few_shot");
  for (const int64_t seed :
       {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{99}, (int64_t{1} << 32) + 5}) {
    NumpyRandom random(seed);
    std::vector<int64_t> all;
    for (const int64_t count : file.Integers("permuted")) {
      std::vector<int64_t> values(count);
      for (int64_t i = 0; i < count; ++i) values[i] = i;
      const std::vector<int64_t> permuted = random.Permutation(values);
      all.insert(all.end(), permuted.begin(), permuted.end());
    }
    EXPECT_EQ(all, file.Integers(absl::StrCat("permutations/", seed))) << "seed " << seed;
  }
}

TEST(FewShotGoldenTest, TheSameImagesAreDrawnAsByTheReference) {
  const Given given;
  for (int seed = 0; seed < given.seeds; ++seed) {
    const ShotsByClass drawn = DrawShots(given.support_labels, given.classes, 25, seed);
    EXPECT_TRUE(drawn[3].empty()) << "the class without images";
    EXPECT_EQ(drawn[5].size(), 4u) << "fewer images than shots";
    EXPECT_EQ(FirstShots(drawn, 25), given.file.Integers(absl::StrCat("drawn/", seed)));
  }
}

// How one regression compares with the reference's.
struct Difference {
  int wrong = 0;  // images that are predicted otherwise although their margin is above kMarginMin
  double margin = 0;  // largest difference of a margin, over 1e-9 + the reference's
};

Difference Compare(const Given& given, const Standardisation& standardisation,
                   const std::vector<double>& weights, const int64_t* predicted,
                   const double* margins) {
  RidgePredictor predictor;
  const int64_t images = static_cast<int64_t>(given.data_labels.size());
  const auto classes =
      predictor.Classes(standardisation, given.data.data(), images, weights, given.classes);
  Difference difference;
  for (int64_t i = 0; i < images; ++i) {
    difference.wrong += margins[i] > kMarginMin && classes[i] != predicted[i];
    std::vector<double> scores(predictor.scores().begin() + i * given.classes,
                               predictor.scores().begin() + (i + 1) * given.classes);
    std::sort(scores.rbegin(), scores.rend());
    const double off = std::abs(scores[0] - scores[1] - margins[i]) / (kMarginMin + margins[i]);
    difference.margin = std::max(difference.margin, off);
  }
  return difference;
}

// The reference's margins are stored in f32: 6e-8 of them is rounding.
TEST(FewShotGoldenTest, EveryPredictionAndMarginIsThatOfTheReference) {
  const Given given;
  const std::vector<int64_t> predicted = given.file.Integers("predicted");
  const std::vector<double> margins = given.file.Values("margins");
  golden::ErrorTable errors;
  const int64_t images = static_cast<int64_t>(given.data_labels.size());
  int64_t at = 0, primal = 0, dual = 0;
  for (int seed = 0; seed < given.seeds; ++seed) {
    const ShotsByClass drawn = DrawShots(given.support_labels, given.classes, 25, seed);
    for (const int shots : given.shots) {
      FeatureRows rows;
      std::vector<int32_t> labels;
      for (const int64_t sample : FirstShots(drawn, shots)) {
        rows.push_back(given.support.data() + sample * given.width);
        labels.push_back(given.support_labels[sample]);
      }
      ++(static_cast<int64_t>(rows.size()) > given.width ? primal : dual);
      const Standardisation standardisation(rows, given.width);
      VITSCALE_ASSERT_OK_AND_ASSIGN(const Ridge ridge,
                                    Ridge::Fit(standardisation, rows, labels, given.classes));
      for (const double l2 : given.l2) {
        std::vector<double> weights;
        ridge.Weights(l2, &weights);
        const Difference difference =
            Compare(given, standardisation, weights, &predicted[at], &margins[at]);
        const std::string where = absl::StrCat("seed ", seed, " shots ", shots, " l2 ", l2);
        errors.Expect("few-shot predictions", difference.wrong, 0, "images", where);
        errors.Expect("few-shot margins", difference.margin, 1e-7, "relative", where);
        at += images;
      }
    }
  }
  EXPECT_GT(primal, 0);
  EXPECT_GT(dual, 0) << "both decompositions occur";
  EXPECT_EQ(at, static_cast<int64_t>(predicted.size()));
  EXPECT_GT(std::count_if(margins.begin(), margins.end(), [](double m) { return m > kMarginMin; }),
            at * 99 / 100)
      << "the comparison is of nearly all images";
}

// Labels of one set; the model below knows the features by the sample's number.
class LabelSource : public ImageSource {
 public:
  explicit LabelSource(std::vector<int32_t> labels) : labels_(std::move(labels)) {}
  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  int height() const override { return 1; }
  int width() const override { return 1; }
  int channels() const override { return 1; }
  int classes_seen() const override {
    return 1 + *std::max_element(labels_.begin(), labels_.end());
  }
  int32_t label(int64_t index) const override { return labels_[index]; }
  absl::Status Read(int64_t, absl::Span<uint8_t> pixels) const override {
    pixels[0] = labels_.size() % 256;  // says which of the two sets it is
    return absl::OkStatus();
  }
  std::string description() const override { return "labels"; }

 private:
  const std::vector<int32_t> labels_;
};

class GivenFeatures : public FeatureModel {
 public:
  explicit GivenFeatures(const Given& given) : given_(given) {}
  int64_t feature_width() const override { return given_.width; }
  absl::Status Features(const Batch& batch, absl::Span<float> features) override {
    for (int64_t i = 0; i < batch.size(); ++i) {
      if (batch.samples[i] < 0) continue;
      const bool support = batch.images[i] == given_.support_labels.size() % 256;
      const float* from = (support ? given_.support : given_.data).data();
      std::copy_n(from + batch.samples[i] * given_.width, given_.width,
                  features.data() + i * given_.width);
    }
    return absl::OkStatus();
  }

 private:
  const Given& given_;
};

TEST(FewShotGoldenTest, AccuraciesAreThoseOfTheReference) {
  const Given given;
  FewShotOptions options;
  options.shots = given.shots;
  options.l2 = given.l2;
  options.seeds = given.seeds;
  options.batch = 64;
  GivenFeatures model(given);
  bool failed = false;
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const FewShotResult result,
      FewShot(options, LabelSource(given.support_labels), LabelSource(given.data_labels), model,
              *MakeSingleCollective(), &failed));
  const std::vector<double> accuracy = given.file.Values("accuracy");
  for (size_t i = 0; i < accuracy.size(); ++i) {
    const size_t shots = i / given.l2.size(), l2 = i % given.l2.size();
    EXPECT_NEAR(result.accuracy[shots][l2], accuracy[i], 1e-12)
        << given.shots[shots] << " shots, l2 " << given.l2[l2];
  }
}

}  // namespace
}  // namespace vitscale
