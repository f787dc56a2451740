// How a factored tensor lies in memory, whatever its rank: [outer, a, mid, b, inner], where a and b
// are the two factored axes in storage order and the rest are batch axes folded together. Per-head
// kernels, convolutions and plain matrices are all this shape:
//
//   [1664, 8192]       MLP        outer 1, a 1664, mid 1, b 8192, inner 1
//   [1664, 16, 104]    query      outer 1, a 1664, mid 16, b 104, inner 1
//   [16, 104, 1664]    out        outer 16, a 104, mid 1, b 1664, inner 1
//   [32, 32, 3, 768]   embedding  outer 32, a 32, mid 3, b 768, inner 1
//
// "Column sums" run over a and are indexed [outer, mid, b, inner]; "row sums" run over b and are
// indexed [outer, a, mid, inner].

#ifndef KERNELS_FACTORED_SHAPE_H_
#define KERNELS_FACTORED_SHAPE_H_

#include <algorithm>
#include <cstdint>

#include "kernels/ops.h"

namespace vitscale {

struct FactoredShape {
  int64_t outer = 1, a = 1, mid = 1, b = 1, inner = 1;
  bool v_row_has_a = false;  // v_row keeps axis a (d0, the largest axis, is b)

  int64_t segment() const { return b * inner; }
  int64_t row_length() const { return mid * segment(); }
  int64_t row_sum_count() const { return outer * a * mid * inner; }
  int64_t column_sum_count() const { return outer * row_length(); }
  int64_t moment_count() const { return row_sum_count() + column_sum_count(); }
  // Where they lie in the second moment: v_row comes first.
  int64_t row_sums_at() const { return v_row_has_a ? 0 : column_sum_count(); }
  int64_t column_sums_at() const { return v_row_has_a ? row_sum_count() : 0; }
};

inline FactoredShape FactoredShapeOf(const Shape& shape, const Factoring& factoring) {
  const int first = std::min(factoring.axis_d0, factoring.axis_d1);
  const int second = std::max(factoring.axis_d0, factoring.axis_d1);
  FactoredShape result;
  for (int axis = 0; axis < static_cast<int>(shape.size()); ++axis) {
    int64_t& part = axis < first     ? result.outer
                    : axis == first  ? result.a
                    : axis < second  ? result.mid
                    : axis == second ? result.b
                                     : result.inner;
    part *= shape[axis];
  }
  result.v_row_has_a = factoring.axis_d0 == second;
  return result;
}

}  // namespace vitscale

#endif  // KERNELS_FACTORED_SHAPE_H_
