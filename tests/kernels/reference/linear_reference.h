// Matmuls straight from the definition, with what their rounding errors are bounded by.

#ifndef TESTS_KERNELS_REFERENCE_LINEAR_REFERENCE_H_
#define TESTS_KERNELS_REFERENCE_LINEAR_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <vector>

namespace vitscale::reference {

// c [rows, columns] = a [rows, k] b [k, columns], each by (row stride, column stride); `magnitude`
// sums |a b|.
template <typename T>
struct Product {
  std::vector<T> value, magnitude;
};

struct Strides {
  int64_t row, column;
};

template <typename T>
Product<T> Matmul(const std::vector<T>& a, Strides sa, const std::vector<T>& b, Strides sb,
                  int64_t rows, int64_t k, int64_t columns) {
  Product<T> c{std::vector<T>(rows * columns), std::vector<T>(rows * columns)};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < k; ++i) {
        const T term = a[r * sa.row + i * sa.column] * b[i * sb.row + j * sb.column];
        c.value[r * columns + j] += term;
        c.magnitude[r * columns + j] += std::abs(term);
      }
    }
  }
  return c;
}

template <typename T>
T Gelu(T x) {
  return T(0.5) * x * (1 + std::tanh(std::sqrt(2 / T(M_PI)) * (x + T(0.044715) * x * x * x)));
}

}  // namespace vitscale::reference

#endif  // TESTS_KERNELS_REFERENCE_LINEAR_REFERENCE_H_
