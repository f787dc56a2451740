// Shapes, operands and error bounds that the tests of attention share.

#ifndef TESTS_CUDA_ON_CPU_ATTENTION_PROBLEM_H_
#define TESTS_CUDA_ON_CPU_ATTENTION_PROBLEM_H_

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/kernels/reference/attention_reference.h"

namespace vitscale {

struct AttentionProblem {
  int64_t batch, tokens, heads, dim;
  int64_t width() const { return heads * dim; }
  int64_t rows() const { return batch * tokens; }
};
inline std::string Text(const AttentionProblem& p) {
  return absl::StrCat("batch ", p.batch, ", tokens ", p.tokens, ", heads ", p.heads, ", dim ",
                      p.dim);
}

// One head's columns of part `part` of a matrix [rows, parts * width], of one image.
struct HeadPlace {
  AttentionProblem p;
  int64_t image, head;

  int64_t At(int64_t token, int64_t c, int64_t parts, int64_t part) const {
    return (image * p.tokens + token) * parts * p.width() + part * p.width() + head * p.dim + c;
  }
  Doubles Get(const Doubles& matrix, int64_t parts, int64_t part) const {
    Doubles values(p.tokens * p.dim);
    for (int64_t t = 0; t < p.tokens; ++t) {
      for (int64_t c = 0; c < p.dim; ++c) values[t * p.dim + c] = matrix[At(t, c, parts, part)];
    }
    return values;
  }
  void Put(const Doubles& values, int64_t parts, int64_t part, Doubles& matrix) const {
    for (int64_t t = 0; t < p.tokens; ++t) {
      for (int64_t c = 0; c < p.dim; ++c) matrix[At(t, c, parts, part)] = values[t * p.dim + c];
    }
  }
  reference::Head<double> SelfHead(const Doubles& qkv) const {
    return {p.tokens, p.tokens, p.dim, Get(qkv, 3, 0), Get(qkv, 3, 1), Get(qkv, 3, 2)};
  }
  reference::Head<double> PoolHead(const Doubles& query, const Doubles& key_value) const {
    const auto begin = query.begin() + head * p.dim;
    return {1,
            p.tokens,
            p.dim,
            Doubles(begin, begin + p.dim),
            Get(key_value, 2, 0),
            Get(key_value, 2, 1)};
  }
};
template <typename Call>
void ForEachHead(const AttentionProblem& p, Call call) {
  for (int64_t image = 0; image < p.batch; ++image) {
    for (int64_t head = 0; head < p.heads; ++head) call(HeadPlace{p, image, head});
  }
}

inline double MaxAbs(const Doubles& values) {
  double max = 0;
  for (const double value : values) max = std::max(max, std::abs(value));
  return max;
}

// Of a score: sums of `dim` products in f32, in any order.
inline double ScoreError(const reference::Head<double>& h) {
  double greatest = 0;
  for (int64_t i = 0; i < h.queries; ++i) {
    for (int64_t j = 0; j < h.tokens; ++j) {
      double magnitude = 0;
      for (int64_t c = 0; c < h.dim; ++c) {
        magnitude += std::abs(h.q[i * h.dim + c] * h.k[j * h.dim + c]);
      }
      greatest = std::max(greatest, magnitude);
    }
  }
  return (static_cast<double>(h.dim) + 8) * 0x1p-24 * greatest / std::sqrt(h.dim);
}

// What one side may be off by in one head.
struct ForwardErrors {
  double out;          // of an element before its last rounding
  double log_sum_exp;  // of one, without the relative 2^-22 of its last rounding
};
// Weights are off by a factor exp(2 score errors) and rounded with half an ulp of
// `weight_rounding`; sums of `tokens` terms in f32, whose exponentials and rescalings (one per 32
// tokens at most) are off by 2^-22 each.
inline ForwardErrors ForwardErrorsOf(const reference::Head<double>& h, double weight_rounding) {
  const double tokens = static_cast<double>(h.tokens), score = ScoreError(h);
  return {(2 * score + weight_rounding + (2 * tokens + 32) * 0x1p-24) * MaxAbs(h.v),
          score + (tokens + 8) * 0x1p-22};
}

}  // namespace vitscale

#endif  // TESTS_CUDA_ON_CPU_ATTENTION_PROBLEM_H_
