#include "worker/eval/few_shot.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status.h"
#include "worker/eval/ridge.h"
#include "worker/eval/run_batches.h"
#include "worker/eval/shots.h"

namespace vitscale {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

std::vector<int32_t> LabelsOf(const ImageSource& source) {
  std::vector<int32_t> labels(source.size());
  for (int64_t i = 0; i < source.size(); ++i) labels[i] = source.label(i);
  return labels;
}

template <typename T>
absl::string_view AsText(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// One evaluation on one rank.
class FewShotRun {
 public:
  FewShotRun(const FewShotOptions& options, const ImageSource& support, const ImageSource& data,
             FeatureModel& model, Collective& collective, bool* collective_failed)
      : options_(options),
        support_(support),
        data_(data),
        model_(model),
        collective_(collective),
        collective_failed_(collective_failed),
        width_(model.feature_width()),
        classes_(support.classes_seen()),
        world_size_(collective.world_size()),
        rank_(collective.rank()),
        support_labels_(LabelsOf(support)),
        data_labels_(LabelsOf(data)) {}

  absl::StatusOr<FewShotResult> Run() {
    VITSCALE_RETURN_IF_ERROR(CheckFewShotLabels(support_, data_));
    Draw();
    VITSCALE_RETURN_IF_ERROR(FindSupportFeatures());
    VITSCALE_RETURN_IF_ERROR(FindDataFeatures());
    VITSCALE_RETURN_IF_ERROR(AgreeOnFiniteFeatures());
    const int64_t tasks = int64_t{options_.seeds} * static_cast<int64_t>(options_.shots.size());
    correct_.assign(tasks * options_.l2.size(), 0);
    for (int64_t first = 0; first < tasks; first += world_size_) {
      VITSCALE_RETURN_IF_ERROR(SolveRound(first, std::min(tasks, first + world_size_)));
    }
    return AddUp();
  }

 private:
  // What is learned from in one regression.
  struct Task {
    FeatureRows rows;
    std::vector<int32_t> labels;
  };

  void Draw() {
    const int most = *std::max_element(options_.shots.begin(), options_.shots.end());
    for (int seed = 0; seed < options_.seeds; ++seed) {
      draws_.push_back(DrawShots(support_labels_, classes_, most, seed));
    }
    drawn_ = UnionOf(draws_);
  }

  // Samples `samples`, cut into batches; this rank's, the last one padded.
  BatchSequence OwnBatches(const std::vector<int64_t>& samples) const {
    BatchSequence sequence;
    sequence.count =
        std::max<int64_t>(0, BatchesOf(samples.size()) - rank_ + world_size_ - 1) / world_size_;
    sequence.at = [&samples, batch = options_.batch, rank = rank_,
                   world_size = world_size_](int64_t number) {
      BatchSpec spec{0, (number * world_size + rank) * batch, {}};
      for (int64_t i = spec.first; i < spec.first + batch; ++i) {
        const bool real = i < static_cast<int64_t>(samples.size());
        spec.samples.push_back({real ? samples[i] : -1, false});
      }
      return spec;
    };
    return sequence;
  }
  int64_t BatchesOf(int64_t images) const { return (images + options_.batch - 1) / options_.batch; }
  int64_t RoundsOf(int64_t images) const {
    return (BatchesOf(images) + world_size_ - 1) / world_size_;
  }

  // Features of this rank's batches, one after the other, zeros where it has one batch fewer than
  // others. Notes in `not_finite` the first image whose features are not finite.
  absl::StatusOr<std::vector<float>> OwnFeatures(const ImageSource& source, BatchSequence sequence,
                                                 int64_t images, int64_t* not_finite) {
    const int64_t batch_values = options_.batch * width_;
    std::vector<float> features(RoundsOf(images) * batch_values);
    VITSCALE_RETURN_IF_ERROR(
        RunBatches(source, std::move(sequence), options_.batch, options_.cores,
                   [&](const Batch& batch, int64_t number) -> absl::Status {
                     if (options_.cancelled()) return absl::CancelledError("aborted");
                     const auto of_batch =
                         absl::MakeSpan(features).subspan(number * batch_values, batch_values);
                     VITSCALE_RETURN_IF_ERROR(model_.Features(batch, of_batch));
                     for (int64_t i = 0; i < batch_values; ++i) {
                       const int64_t sample = batch.samples[i / width_];
                       if (sample >= 0 && !std::isfinite(of_batch[i])) {
                         *not_finite = std::min(*not_finite, sample);
                       }
                     }
                     return absl::OkStatus();
                   }));
    return features;
  }

  absl::Status FindSupportFeatures() {
    VITSCALE_ASSIGN_OR_RETURN(
        const std::vector<float> own,
        OwnFeatures(support_, OwnBatches(drawn_), drawn_.size(), &support_not_finite_));
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> all, Gather(AsText(own)));
    const int64_t batch_bytes = options_.batch * width_ * static_cast<int64_t>(sizeof(float));
    drawn_features_.resize(BatchesOf(drawn_.size()) * options_.batch * width_);
    for (int64_t i = 0; i < BatchesOf(drawn_.size()); ++i) {
      std::memcpy(drawn_features_.data() + i * options_.batch * width_,
                  all[i % world_size_].data() + i / world_size_ * batch_bytes, batch_bytes);
    }
    return absl::OkStatus();
  }

  absl::Status FindDataFeatures() {
    VITSCALE_ASSIGN_OR_RETURN(
        data_features_,
        OwnFeatures(data_, EvalBatches(data_.size(), options_.batch, rank_, world_size_),
                    data_.size(), &data_not_finite_));
    return absl::OkStatus();
  }

  absl::Status AgreeOnFiniteFeatures() {
    const std::vector<int64_t> own = {support_not_finite_, data_not_finite_};
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> all, Gather(AsText(own)));
    int64_t first[2] = {kNone, kNone};
    for (const std::string& each : all) {
      int64_t noted[2];
      std::memcpy(noted, each.data(), sizeof(noted));
      for (int i : {0, 1}) first[i] = std::min(first[i], noted[i]);
    }
    for (int i : {0, 1}) {
      if (first[i] == kNone) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(i == 0 ? "support" : "data", ": features of image ", first[i],
                       " are not finite, want finite ones: the weights of the model are broken"));
    }
    return absl::OkStatus();
  }

  Task TaskOf(int64_t number) const {
    const int64_t seed = number / static_cast<int64_t>(options_.shots.size());
    const int shots = options_.shots[number % options_.shots.size()];
    Task task;
    for (const int64_t sample : FirstShots(draws_[seed], shots)) {
      const int64_t place = std::lower_bound(drawn_.begin(), drawn_.end(), sample) - drawn_.begin();
      task.rows.push_back(drawn_features_.data() + place * width_);
      task.labels.push_back(support_labels_[sample]);
    }
    return task;
  }

  // Tasks first … last - 1: each rank solves one, then all predict by all of them.
  absl::Status SolveRound(int64_t first, int64_t last) {
    std::optional<Ridge> own;
    if (first + rank_ < last) {
      const Task task = TaskOf(first + rank_);
      VITSCALE_ASSIGN_OR_RETURN(
          own, Ridge::Fit(Standardisation(task.rows, width_), task.rows, task.labels, classes_));
    }
    std::vector<double> weights((width_ + 1) * classes_);
    for (int64_t number = first; number < last; ++number) {
      const int root = static_cast<int>(number - first);
      const Standardisation standardisation(TaskOf(number).rows, width_);
      for (size_t i = 0; i < options_.l2.size(); ++i) {
        if (options_.cancelled()) return absl::CancelledError("aborted");
        if (root == rank_) own->Weights(options_.l2[i], &weights);
        VITSCALE_RETURN_IF_ERROR(Tell(root, &weights));
        correct_[number * options_.l2.size() + i] = CountCorrect(standardisation, weights);
      }
    }
    return absl::OkStatus();
  }

  int64_t CountCorrect(const Standardisation& standardisation, const std::vector<double>& weights) {
    int64_t correct = 0;
    for (int64_t number = rank_; number < BatchesOf(data_.size()); number += world_size_) {
      const float* features =
          data_features_.data() + number / world_size_ * options_.batch * width_;
      const auto predicted =
          predictor_.Classes(standardisation, features, options_.batch, weights, classes_);
      const int64_t first = number * options_.batch;
      const int64_t count = std::min(options_.batch, data_.size() - first);
      for (int64_t i = 0; i < count; ++i) correct += predicted[i] == data_labels_[first + i];
    }
    return correct;
  }

  absl::StatusOr<FewShotResult> AddUp() {
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> all, Gather(AsText(correct_)));
    FewShotResult result;
    result.images = data_.size();
    result.accuracy.assign(options_.shots.size(), std::vector<double>(options_.l2.size()));
    for (size_t shots = 0; shots < options_.shots.size(); ++shots) {
      for (size_t l2 = 0; l2 < options_.l2.size(); ++l2) {
        int64_t correct = 0;
        for (int64_t seed = 0; seed < options_.seeds; ++seed) {
          const size_t at = (seed * options_.shots.size() + shots) * options_.l2.size() + l2;
          for (const std::string& each : all) {
            int64_t of_rank;
            std::memcpy(&of_rank, each.data() + at * sizeof(of_rank), sizeof(of_rank));
            correct += of_rank;
          }
        }
        result.accuracy[shots][l2] =
            static_cast<double>(correct) / static_cast<double>(data_.size() * options_.seeds);
      }
    }
    return result;
  }

  absl::StatusOr<std::vector<std::string>> Gather(absl::string_view own) {
    auto all = collective_.AllGather(own, options_.timeout);
    *collective_failed_ = !all.ok();
    return all;
  }
  absl::Status Tell(int root, std::vector<double>* weights) {
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(weights->data()),
                                      weights->size() * sizeof(double));
    const absl::Status status = collective_.Broadcast(root, bytes, options_.timeout);
    *collective_failed_ = !status.ok();
    return status;
  }

  const FewShotOptions& options_;
  const ImageSource &support_, &data_;
  FeatureModel& model_;
  Collective& collective_;
  bool* const collective_failed_;
  const int64_t width_;
  const int classes_, world_size_, rank_;
  const std::vector<int32_t> support_labels_, data_labels_;

  std::vector<ShotsByClass> draws_;    // by seed
  std::vector<int64_t> drawn_;         // samples of the support that occur in a draw, ascending
  std::vector<float> drawn_features_;  // [drawn, rounded up to whole batches, width]
  std::vector<float> data_features_;   // [own batches, batch, width]
  int64_t support_not_finite_ = kNone, data_not_finite_ = kNone;
  std::vector<int64_t> correct_;  // [seed, shots, l2], of this rank's images
  RidgePredictor predictor_;
};

// Shortest text that reads back as the same number.
std::string NumberText(double value) {
  for (int digits = 1; digits < 17; ++digits) {
    const std::string text = absl::StrFormat("%.*g", digits, value);
    if (std::stod(text) == value) return text;
  }
  return absl::StrFormat("%.17g", value);
}

}  // namespace

absl::StatusOr<FewShotResult> FewShot(const FewShotOptions& options, const ImageSource& support,
                                      const ImageSource& data, FeatureModel& model,
                                      Collective& collective, bool* collective_failed) {
  VITSCALE_CHECK(!options.shots.empty() && !options.l2.empty());
  VITSCALE_CHECK(options.seeds > 0 && options.batch > 0);
  *collective_failed = false;
  return FewShotRun(options, support, data, model, collective, collective_failed).Run();
}

absl::Status CheckFewShotLabels(const ImageSource& support, const ImageSource& data) {
  const int classes = support.classes_seen();
  if (data.classes_seen() <= classes) return absl::OkStatus();
  int64_t image = 0;
  while (data.label(image) < classes) ++image;
  return absl::InvalidArgumentError(absl::StrCat(
      "image ", image, " of ", data.description(), " has label ", data.label(image), ", want 0 to ",
      classes - 1, ": the classes of the support, ", support.description()));
}

std::map<std::string, double> FewShotValues(const FewShotOptions& options,
                                            const FewShotResult& result) {
  std::map<std::string, double> values;
  for (size_t shots = 0; shots < options.shots.size(); ++shots) {
    const std::vector<double>& accuracy = result.accuracy[shots];
    const std::string name = absl::StrCat(options.shots[shots], "shot");
    values[name] = *std::max_element(accuracy.begin(), accuracy.end());
    if (options.l2.size() < 2) continue;
    for (size_t i = 0; i < options.l2.size(); ++i) {
      values[absl::StrCat(name, "_l2_", NumberText(options.l2[i]))] = accuracy[i];
    }
  }
  return values;
}

}  // namespace vitscale
