#include "worker/eval/ridge.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/eval/linear_algebra.h"

namespace vitscale {
namespace {

using linear_algebra::Transpose;

constexpr double kDeviationAdded = 1e-5;
constexpr double kBias = 100.0;
constexpr int64_t kBlockRows = 512;  // rows of X that are in memory at once

std::vector<double> RowsOfX(const Standardisation& standardisation, const FeatureRows& rows,
                            int64_t first, int64_t count) {
  const int64_t columns = standardisation.columns();
  std::vector<double> x(count * columns);
  for (int64_t i = 0; i < count; ++i) {
    standardisation.Apply(rows[first + i], &x[i * columns]);
  }
  return x;
}

// X'X (lower triangle) and (X'Y)', block by block: X is never in memory as a whole.
void Accumulate(const Standardisation& standardisation, const FeatureRows& rows,
                absl::Span<const int32_t> labels, std::vector<double>* gram,
                std::vector<double>* targets) {
  const int64_t columns = standardisation.columns(), n = static_cast<int64_t>(rows.size());
  std::vector<double> sum(columns);
  for (int64_t first = 0; first < n; first += kBlockRows) {
    const int64_t count = std::min(kBlockRows, n - first);
    const std::vector<double> x = RowsOfX(standardisation, rows, first, count);
    linear_algebra::AddGramOfColumns(count, columns, x.data(), gram->data());
    for (int64_t i = 0; i < count; ++i) {
      double* of_class = &(*targets)[labels[first + i] * columns];
      for (int64_t j = 0; j < columns; ++j) {
        of_class[j] += 2 * x[i * columns + j];
        sum[j] += x[i * columns + j];
      }
    }
  }
  for (size_t i = 0; i < targets->size(); ++i) (*targets)[i] -= sum[i % columns];
}

}  // namespace

Standardisation::Standardisation(const FeatureRows& rows, int64_t width)
    : mean_(width), deviation_(width) {
  VITSCALE_CHECK(!rows.empty());
  const double count = static_cast<double>(rows.size());
  for (const float* row : rows) {
    for (int64_t j = 0; j < width; ++j) mean_[j] += row[j];
  }
  for (double& mean : mean_) mean /= count;
  for (const float* row : rows) {
    for (int64_t j = 0; j < width; ++j) {
      const double away = row[j] - mean_[j];
      deviation_[j] += away * away;
    }
  }
  for (double& value : deviation_) value = std::sqrt(value / count) + kDeviationAdded;
}

void Standardisation::Apply(const float* features, double* row) const {
  for (size_t j = 0; j < mean_.size(); ++j) row[j] = (features[j] - mean_[j]) / deviation_[j];
  row[mean_.size()] = kBias;
}

absl::StatusOr<Ridge> Ridge::Fit(const Standardisation& standardisation, const FeatureRows& rows,
                                 absl::Span<const int32_t> labels, int classes) {
  VITSCALE_CHECK(rows.size() == labels.size());
  Ridge ridge;
  const int64_t n = static_cast<int64_t>(rows.size()), columns = standardisation.columns();
  const int64_t side = std::min(n, columns);
  if (side > kRidgeSideMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a regression on ", n, " images with ", columns - 1,
                     " features, want one of the two to be below ", kRidgeSideMax));
  }
  ridge.columns_ = columns;
  ridge.classes_ = classes;
  ridge.rank_ = side;
  ridge.targets_.resize(side * classes);
  std::vector<double> vectors(side * side), targets(int64_t{classes} * side);
  std::vector<double> x;
  if (n >= columns) {
    Accumulate(standardisation, rows, labels, &vectors, &targets);
  } else {
    x = RowsOfX(standardisation, rows, 0, n);
    linear_algebra::GramOfRows(n, columns, x.data(), vectors.data());
    std::fill(targets.begin(), targets.end(), -1.0);
    for (int64_t i = 0; i < n; ++i) targets[labels[i] * n + i] = 1.0;
  }
  VITSCALE_ASSIGN_OR_RETURN(ridge.eigenvalues_, linear_algebra::Diagonalise(side, &vectors));
  for (double& value : ridge.eigenvalues_) value = std::max(value, 0.0);
  linear_algebra::Multiply(side, classes, side, vectors.data(), Transpose::kNo, targets.data(),
                           Transpose::kYes, ridge.targets_.data());
  if (n >= columns) {
    ridge.basis_ = std::move(vectors);
  } else {
    ridge.basis_.resize(side * columns);
    linear_algebra::Multiply(side, columns, side, vectors.data(), Transpose::kNo, x.data(),
                             Transpose::kNo, ridge.basis_.data());
  }
  return ridge;
}

void Ridge::Weights(double l2, std::vector<double>* weights) const {
  std::vector<double> scaled(targets_.size());
  for (size_t i = 0; i < scaled.size(); ++i) {
    scaled[i] = targets_[i] / (eigenvalues_[i / classes_] + l2);
  }
  weights->resize(columns_ * classes_);
  linear_algebra::Multiply(columns_, classes_, rank_, basis_.data(), Transpose::kYes, scaled.data(),
                           Transpose::kNo, weights->data());
}

absl::Span<const int32_t> RidgePredictor::Classes(const Standardisation& standardisation,
                                                  const float* features, int64_t count,
                                                  absl::Span<const double> weights, int classes) {
  const int64_t columns = standardisation.columns();
  rows_.resize(count * columns);
  scores_.resize(count * classes);
  predicted_.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    standardisation.Apply(features + i * (columns - 1), &rows_[i * columns]);
  }
  linear_algebra::Multiply(count, classes, columns, rows_.data(), Transpose::kNo, weights.data(),
                           Transpose::kNo, scores_.data());
  for (int64_t i = 0; i < count; ++i) {
    const double* row = &scores_[i * classes];
    predicted_[i] = static_cast<int32_t>(std::max_element(row, row + classes) - row);
  }
  return predicted_;
}

}  // namespace vitscale
