// Ridge regression from features to classes, in f64, for many strengths of regularisation from one
// eigendecomposition.
//
//   X  [n, width + 1]: features minus their mean, over their standard deviation + 1e-5, then a
//                      column of 100: a bias that the regularisation hardly touches
//   Y  [n, classes]:   1 for the class of the row, else -1
//   W = (X'X + l2 I)^-1 X'Y, by the eigenvalues of X'X where n > width, else of XX'
//
// Mean and standard deviation (over n) are those of the rows it learns from. A row's class is the
// column of XW with the greatest value, the first one of equal ones.
// Source: big_vision evaluators/fewshot_lsr.py, which computes in f32. The bias column makes one
// eigenvalue about 1e4 n, so an l2 below about 1e-12 n drowns in rounding.
//
// LAPACK (dsyevd) and BLAS run on the calling thread only. Eigenvalues below 0 by rounding count as
// 0.

#ifndef WORKER_EVAL_RIDGE_H_
#define WORKER_EVAL_RIDGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace vitscale {

// Rows of features: pointers to `width` values each.
using FeatureRows = std::vector<const float*>;

class Standardisation {
 public:
  // At least one row.
  Standardisation(const FeatureRows& rows, int64_t width);

  int64_t columns() const { return static_cast<int64_t>(mean_.size()) + 1; }
  // One row of X: columns() values.
  void Apply(const float* features, double* row) const;

 private:
  std::vector<double> mean_, deviation_;  // deviation with 1e-5 added
};

// Longest side of a matrix whose eigenvalues are computed: LAPACK's workspace of 2 n^2 is counted
// in an int.
inline constexpr int64_t kRidgeSideMax = 30'000;

class Ridge {
 public:
  // `labels` in [0, classes), one for each row. RESOURCE_EXHAUSTED: min(rows, width + 1) is beyond
  // kRidgeSideMax. INTERNAL: LAPACK did not converge.
  static absl::StatusOr<Ridge> Fit(const Standardisation& standardisation, const FeatureRows& rows,
                                   absl::Span<const int32_t> labels, int classes);

  // [columns, classes], row-major. l2 > 0.
  void Weights(double l2, std::vector<double>* weights) const;

 private:
  int64_t columns_ = 0, classes_ = 0, rank_ = 0;
  std::vector<double> eigenvalues_;  // [rank]
  std::vector<double> basis_;        // [rank, columns]: Q', or Q'X
  std::vector<double> targets_;      // [rank, classes]: Q'X'Y, or Q'Y
};

// Classes of `count` rows of features that lie one after the other. What it returns is good until
// the next call.
class RidgePredictor {
 public:
  absl::Span<const int32_t> Classes(const Standardisation& standardisation, const float* features,
                                    int64_t count, absl::Span<const double> weights, int classes);
  // XW of the last call: [count, classes].
  absl::Span<const double> scores() const { return scores_; }

 private:
  std::vector<double> rows_, scores_;
  std::vector<int32_t> predicted_;
};

}  // namespace vitscale

#endif  // WORKER_EVAL_RIDGE_H_
