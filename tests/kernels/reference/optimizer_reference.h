// The optimizers in f64, element by element with explicit indices, written from the published rules
// and without a look at the kernels: big_vision optax.py (scale_by_adafactor), optax factorized.py,
// _clipping.py, transform.py.
//
// Only the momentum is rounded (to bf16, nearest even), because the rule says so, and beta1 where
// it multiplies the momentum, because optax does (ops.h, OptimizerArgs).

#ifndef TESTS_KERNELS_REFERENCE_OPTIMIZER_REFERENCE_H_
#define TESTS_KERNELS_REFERENCE_OPTIMIZER_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <vector>

#include "kernels/base/bf16.h"
#include "kernels/ops.h"

namespace vitscale::reference {

using Values = std::vector<double>;

// Axes of the factored second moment; {-1, -1}: not factored. optax: the two largest, of equal ones
// the later, and only when the second largest has at least `minimum` elements.
inline Factoring FactoringOf(const Shape& shape, int64_t minimum = 32) {
  if (shape.size() < 2) return {};
  std::vector<int> order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return shape[a] < shape[b]; });
  const int d0 = order[order.size() - 1], d1 = order[order.size() - 2];
  if (shape[d1] < minimum) return {};
  return {true, d0, d1};
}

struct TensorState {
  Shape shape;
  Factoring factoring;
  double learning_rate = 0, weight_decay = 0;
  Values parameter, momentum, second_moment;
};

struct StepValues {
  double schedule = 1, gradient_scale = 1, beta1 = 0.9, beta2 = 0.999, clip_norm = 1;
  double epsilon = 1e-8;  // AdamW
  int64_t step = 0;
};

inline double MomentumDecay(const StepValues& step) {
  return FromBf16(ToBf16(static_cast<float>(step.beta1)));
}

// The index of every axis of element `i`.
inline std::vector<int64_t> Unravel(int64_t i, const Shape& shape) {
  std::vector<int64_t> index(shape.size());
  for (int axis = static_cast<int>(shape.size()) - 1; axis >= 0; --axis) {
    index[axis] = i % shape[axis];
    i /= shape[axis];
  }
  return index;
}
// The offset in a tensor of that shape without axis `dropped`.
inline int64_t RavelWithout(const std::vector<int64_t>& index, const Shape& shape, int dropped) {
  int64_t at = 0;
  for (int axis = 0; axis < static_cast<int>(shape.size()); ++axis) {
    if (axis != dropped) at = at * shape[axis] + index[axis];
  }
  return at;
}

// The scaled and clipped gradients of all tensors.
inline std::vector<Values> Clipped(std::vector<Values> gradients, const StepValues& step) {
  double square = 0;
  for (Values& g : gradients) {
    for (double& value : g) square += std::pow(value *= step.gradient_scale, 2);
  }
  const double norm = std::sqrt(square);
  if (step.clip_norm <= 0 || norm < step.clip_norm) return gradients;
  for (Values& g : gradients) {
    for (double& value : g) value = value / norm * step.clip_norm;
  }
  return gradients;
}

inline Values FactoredUpdate(TensorState& t, const Values& g, double beta2) {
  const int d0 = t.factoring.axis_d0, d1 = t.factoring.axis_d1;
  const int64_t n = g.size();
  const int64_t rows = n / t.shape[d0], columns = n / t.shape[d1];
  Values v_row(rows, 0), v_col(columns, 0);
  for (int64_t i = 0; i < n; ++i) {
    const auto index = Unravel(i, t.shape);
    const double q = g[i] * g[i] + 1e-30;
    v_row[RavelWithout(index, t.shape, d0)] += q / t.shape[d0];
    v_col[RavelWithout(index, t.shape, d1)] += q / t.shape[d1];
  }
  for (int64_t i = 0; i < rows; ++i) {
    v_row[i] = t.second_moment[i] = beta2 * t.second_moment[i] + (1 - beta2) * v_row[i];
  }
  for (int64_t i = 0; i < columns; ++i) {
    double& v = t.second_moment[rows + i];
    v_col[i] = v = beta2 * v + (1 - beta2) * v_col[i];
  }
  // mean(v_row) over d1, one for every index of the batch axes.
  std::map<std::vector<int64_t>, double> mean;
  const auto batch_index = [&](std::vector<int64_t> index) {
    index[d0] = index[d1] = 0;
    return index;
  };
  for (int64_t i = 0; i < n; ++i) {
    const auto index = Unravel(i, t.shape);
    if (index[d0] != 0) continue;
    mean[batch_index(index)] += v_row[RavelWithout(index, t.shape, d0)] / t.shape[d1];
  }
  Values u(n);
  for (int64_t i = 0; i < n; ++i) {
    const auto index = Unravel(i, t.shape);
    u[i] = g[i] / std::sqrt(v_row[RavelWithout(index, t.shape, d0)] / mean[batch_index(index)]) /
           std::sqrt(v_col[RavelWithout(index, t.shape, d1)]);
  }
  return u;
}

inline Values FullUpdate(TensorState& t, const Values& g, double beta2) {
  Values u(g.size());
  for (size_t i = 0; i < g.size(); ++i) {
    double& v = t.second_moment[i];
    v = beta2 * v + (1 - beta2) * (g[i] * g[i] + 1e-30);
    u[i] = g[i] / std::sqrt(v);
  }
  return u;
}

// Momentum m (before rounding) to the parameter.
inline void TakeOff(TensorState& t, const Values& m, const Values& direction, double schedule) {
  for (size_t i = 0; i < m.size(); ++i) {
    t.momentum[i] = FromBf16(ToBf16(static_cast<float>(m[i])));
    t.parameter[i] -= schedule * (t.learning_rate * direction[i] + t.weight_decay * t.parameter[i]);
  }
}

inline void AdafactorStep(std::vector<TensorState>& tensors, const std::vector<Values>& gradients,
                          const StepValues& step) {
  const std::vector<Values> clipped = Clipped(gradients, step);
  for (size_t k = 0; k < tensors.size(); ++k) {
    TensorState& t = tensors[k];
    Values m = t.factoring.factored ? FactoredUpdate(t, clipped[k], step.beta2)
                                    : FullUpdate(t, clipped[k], step.beta2);
    for (size_t i = 0; i < m.size(); ++i) {
      m[i] = MomentumDecay(step) * t.momentum[i] + (1 - step.beta1) * m[i];
    }
    TakeOff(t, m, m, step.schedule);
  }
}

inline void AdamWStep(std::vector<TensorState>& tensors, const std::vector<Values>& gradients,
                      const StepValues& step) {
  const std::vector<Values> clipped = Clipped(gradients, step);
  for (size_t k = 0; k < tensors.size(); ++k) {
    TensorState& t = tensors[k];
    Values m(clipped[k].size()), direction(m.size());
    for (size_t i = 0; i < m.size(); ++i) {
      const double g = clipped[k][i];
      m[i] = MomentumDecay(step) * t.momentum[i] + (1 - step.beta1) * g;
      double& v = t.second_moment[i];
      v = step.beta2 * v + (1 - step.beta2) * g * g;
      direction[i] = m[i] / (1 - std::pow(step.beta1, step.step + 1)) /
                     (std::sqrt(v / (1 - std::pow(step.beta2, step.step + 1))) + step.epsilon);
    }
    TakeOff(t, m, direction, step.schedule);
  }
}

inline void SgdStep(std::vector<TensorState>& tensors, const std::vector<Values>& gradients,
                    const StepValues& step) {
  const std::vector<Values> clipped = Clipped(gradients, step);
  for (size_t k = 0; k < tensors.size(); ++k) {
    Values m(clipped[k].size());
    for (size_t i = 0; i < m.size(); ++i) {
      m[i] = MomentumDecay(step) * tensors[k].momentum[i] + clipped[k][i];
    }
    TakeOff(tensors[k], m, m, step.schedule);
  }
}

}  // namespace vitscale::reference

#endif  // TESTS_KERNELS_REFERENCE_OPTIMIZER_REFERENCE_H_
