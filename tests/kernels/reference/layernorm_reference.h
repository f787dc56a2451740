// LayerNorm and its backward, straight from the definition, row by row, in the precision of T.

#ifndef TESTS_KERNELS_REFERENCE_LAYERNORM_REFERENCE_H_
#define TESTS_KERNELS_REFERENCE_LAYERNORM_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <vector>

namespace vitscale::reference {

template <typename T>
struct LayerNormResult {
  std::vector<T> y, mean, inv_std;
};

template <typename T>
LayerNormResult<T> LayerNorm(const std::vector<T>& x, const std::vector<T>& gamma,
                             const std::vector<T>& beta, T epsilon) {
  const int64_t width = gamma.size(), rows = x.size() / width;
  LayerNormResult<T> result{std::vector<T>(x.size()), std::vector<T>(rows), std::vector<T>(rows)};
  for (int64_t r = 0; r < rows; ++r) {
    T mean = 0, variance = 0;
    for (int64_t c = 0; c < width; ++c) mean += x[r * width + c] / width;
    for (int64_t c = 0; c < width; ++c) variance += std::pow(x[r * width + c] - mean, 2) / width;
    const T inv_std = 1 / std::sqrt(variance + epsilon);
    for (int64_t c = 0; c < width; ++c) {
      result.y[r * width + c] = (x[r * width + c] - mean) * inv_std * gamma[c] + beta[c];
    }
    result.mean[r] = mean;
    result.inv_std[r] = inv_std;
  }
  return result;
}

template <typename T>
struct LayerNormGradResult {
  std::vector<T> grad_x, grad_gamma, grad_beta;
};

// By the Jacobian: d y_c / d x_j = gamma_c inv_std (delta_cj - 1 / n - h_c h_j / n).
template <typename T>
LayerNormGradResult<T> LayerNormGrad(const std::vector<T>& grad_y, const std::vector<T>& x,
                                     const std::vector<T>& gamma, T epsilon) {
  const int64_t width = gamma.size(), rows = x.size() / width;
  const std::vector<T> ones(width, 1), zeros(width, 0);
  const LayerNormResult<T> forward = LayerNorm(x, ones, zeros, epsilon);  // y is h
  LayerNormGradResult<T> result{std::vector<T>(x.size()), zeros, zeros};
  for (int64_t r = 0; r < rows; ++r) {
    const T* h = forward.y.data() + r * width;
    const T* g = grad_y.data() + r * width;
    T sum = 0, sum_h = 0;
    for (int64_t c = 0; c < width; ++c) {
      sum += g[c] * gamma[c];
      sum_h += g[c] * gamma[c] * h[c];
      result.grad_gamma[c] += g[c] * h[c];
      result.grad_beta[c] += g[c];
    }
    for (int64_t j = 0; j < width; ++j) {
      result.grad_x[r * width + j] =
          forward.inv_std[r] * (g[j] * gamma[j] - sum / width - h[j] * sum_h / width);
    }
  }
  return result;
}

}  // namespace vitscale::reference

#endif  // TESTS_KERNELS_REFERENCE_LAYERNORM_REFERENCE_H_
