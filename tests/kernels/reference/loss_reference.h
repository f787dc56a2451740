// The two losses with dense targets, straight from the definition, in the precision of T.

#ifndef TESTS_KERNELS_REFERENCE_LOSS_REFERENCE_H_
#define TESTS_KERNELS_REFERENCE_LOSS_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/kernels/reference/elementary_reference.h"

namespace vitscale::reference {

template <typename T>
struct LossResult {
  T loss = 0;
  int64_t correct = 0;
  std::vector<T> grad;
};

// Targets [batch, classes]; weights [batch].
template <typename T>
LossResult<T> SigmoidLoss(const std::vector<T>& logits, const std::vector<T>& targets,
                          const std::vector<T>& weights) {
  const int64_t batch = weights.size(), classes = logits.size() / batch;
  LossResult<T> result;
  result.grad.resize(logits.size());
  for (int64_t i = 0; i < batch * classes; ++i) {
    const T w = weights[i / classes];
    if (w == 0) continue;
    const T z = logits[i], y = targets[i];
    result.loss += w * (y * Softplus(-z) + (1 - y) * Softplus(z));
    result.grad[i] = w * (Sigmoid(z) - y);
  }
  return result;
}

template <typename T>
LossResult<T> SoftmaxLoss(const std::vector<T>& logits, const std::vector<T>& targets,
                          const std::vector<T>& weights) {
  const int64_t batch = weights.size(), classes = logits.size() / batch;
  LossResult<T> result;
  result.grad.resize(logits.size());
  for (int64_t b = 0; b < batch; ++b) {
    if (weights[b] == 0) continue;
    const T* z = logits.data() + b * classes;
    const T* y = targets.data() + b * classes;
    const T maximum = *std::max_element(z, z + classes);
    T sum = 0, targets_sum = 0;
    for (int64_t c = 0; c < classes; ++c) {
      sum += std::exp(z[c] - maximum);
      targets_sum += y[c];
    }
    for (int64_t c = 0; c < classes; ++c) {
      result.loss -= weights[b] * y[c] * (z[c] - maximum - std::log(sum));
      result.grad[b * classes + c] =
          weights[b] * (targets_sum * std::exp(z[c] - maximum) / sum - y[c]);
    }
  }
  return result;
}

}  // namespace vitscale::reference

#endif  // TESTS_KERNELS_REFERENCE_LOSS_REFERENCE_H_
