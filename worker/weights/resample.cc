#include "worker/weights/resample.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/status.h"

namespace vitscale {
namespace {

// Where a row or column of the new grid lies between two of the old one.
struct Between {
  int64_t low = 0, high = 0;
  double low_weight = 1, high_weight = 0;
};

Between BetweenOf(int64_t index, int64_t from, int64_t to) {
  if (to == 1) return {};
  const double step = static_cast<double>(from - 1) / static_cast<double>(to - 1);
  const double at = std::min(static_cast<double>(index) * step, static_cast<double>(from - 1));
  Between between;
  between.low = static_cast<int64_t>(std::floor(at));
  between.high = std::min(between.low + 1, from - 1);
  between.low_weight = 1 - (at - std::floor(at));
  between.high_weight = 1 - between.low_weight;  // as scipy: weights sum to 1
  return between;
}

}  // namespace

std::vector<float> ResamplePositions(absl::Span<const float> positions, int64_t from, int64_t to,
                                     int64_t width) {
  VITSCALE_CHECK(static_cast<int64_t>(positions.size()) == from * from * width);
  std::vector<float> result(to * to * width);
  for (int64_t row = 0; row < to; ++row) {
    const Between y = BetweenOf(row, from, to);
    for (int64_t column = 0; column < to; ++column) {
      const Between x = BetweenOf(column, from, to);
      const auto old = [&](int64_t r, int64_t c, int64_t i) {
        return static_cast<double>(positions[(r * from + c) * width + i]);
      };
      float* const out = result.data() + (row * to + column) * width;
      for (int64_t i = 0; i < width; ++i) {
        double sum = old(y.low, x.low, i) * y.low_weight * x.low_weight;
        sum += old(y.low, x.high, i) * y.low_weight * x.high_weight;
        sum += old(y.high, x.low, i) * y.high_weight * x.low_weight;
        sum += old(y.high, x.high, i) * y.high_weight * x.high_weight;
        out[i] = static_cast<float>(sum);
      }
    }
  }
  return result;
}

}  // namespace vitscale
