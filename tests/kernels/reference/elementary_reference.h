// Plain scalar definitions, in the precision of T.

#ifndef TESTS_KERNELS_REFERENCE_ELEMENTARY_REFERENCE_H_
#define TESTS_KERNELS_REFERENCE_ELEMENTARY_REFERENCE_H_

#include <cmath>

namespace vitscale::reference {

template <typename T>
T Sigmoid(T z) {
  return 1 / (1 + std::exp(-z));
}

// log(1 + e^z) without overflow.
template <typename T>
T Softplus(T z) {
  return std::max(z, T(0)) + std::log1p(std::exp(-std::abs(z)));
}

// arXiv:1606.08415, section 2, the tanh form.
template <typename T>
T Gelu(T x) {
  const T u = std::sqrt(T(2) / T(M_PI)) * (x + T(0.044715) * x * x * x);
  return T(0.5) * x * (1 + std::tanh(u));
}

template <typename T>
T GeluDerivative(T x) {
  const T c = std::sqrt(T(2) / T(M_PI));
  const T t = std::tanh(c * (x + T(0.044715) * x * x * x));
  return T(0.5) * (1 + t) + T(0.5) * x * (1 - t * t) * c * (1 + 3 * T(0.044715) * x * x);
}

}  // namespace vitscale::reference

#endif  // TESTS_KERNELS_REFERENCE_ELEMENTARY_REFERENCE_H_
