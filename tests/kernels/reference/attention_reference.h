// softmax(q k^T scale) v for one head, and its gradients, straight from the definition.

#ifndef TESTS_KERNELS_REFERENCE_ATTENTION_REFERENCE_H_
#define TESTS_KERNELS_REFERENCE_ATTENTION_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace vitscale::reference {

// q [queries, dim], k and v [tokens, dim].
template <typename T>
struct Head {
  int64_t queries, tokens, dim;
  std::vector<T> q, k, v;
};

template <typename T>
struct HeadResult {
  std::vector<T> p, out, log_sum_exp;  // [queries, tokens], [queries, dim], [queries]
};

template <typename T>
HeadResult<T> Attention(const Head<T>& h) {
  HeadResult<T> r{std::vector<T>(h.queries * h.tokens), std::vector<T>(h.queries * h.dim),
                  std::vector<T>(h.queries)};
  const T scale = 1 / std::sqrt(static_cast<T>(h.dim));
  for (int64_t i = 0; i < h.queries; ++i) {
    T* p = r.p.data() + i * h.tokens;
    for (int64_t j = 0; j < h.tokens; ++j) {
      for (int64_t c = 0; c < h.dim; ++c) p[j] += h.q[i * h.dim + c] * h.k[j * h.dim + c] * scale;
    }
    const T max = *std::max_element(p, p + h.tokens);
    T sum = 0;
    for (int64_t j = 0; j < h.tokens; ++j) sum += std::exp(p[j] - max);
    r.log_sum_exp[i] = max + std::log(sum);
    for (int64_t j = 0; j < h.tokens; ++j) {
      p[j] = std::exp(p[j] - r.log_sum_exp[i]);
      for (int64_t c = 0; c < h.dim; ++c) r.out[i * h.dim + c] += p[j] * h.v[j * h.dim + c];
    }
  }
  return r;
}

// Gradients, and a bound of what a kernel may be off by when it rounds p, dS, out and results with
// half an ulp of `u` and sums in f32.
template <typename T>
struct HeadGrad {
  std::vector<T> q, k, v;
  std::vector<T> q_bound, k_bound, v_bound;
};

template <typename T>
HeadGrad<T> AttentionGrad(const Head<T>& h, const std::vector<T>& grad_out, T u) {
  const HeadResult<T> f = Attention(h);
  const T scale = 1 / std::sqrt(static_cast<T>(h.dim));
  const size_t nq = h.q.size(), nk = h.k.size();
  HeadGrad<T> g{std::vector<T>(nq), std::vector<T>(nk), std::vector<T>(nk),
                std::vector<T>(nq), std::vector<T>(nk), std::vector<T>(nk)};
  const T sum_error = static_cast<T>(h.tokens + h.dim + 64) * static_cast<T>(0x1p-23);
  for (int64_t i = 0; i < h.queries; ++i) {
    const T* go = grad_out.data() + i * h.dim;
    T delta = 0, delta_magnitude = 0, score_magnitude = 0;
    for (int64_t c = 0; c < h.dim; ++c) {
      delta += go[c] * f.out[i * h.dim + c];
      delta_magnitude += std::abs(go[c] * f.out[i * h.dim + c]);
    }
    for (int64_t j = 0; j < h.tokens; ++j) {
      T magnitude = 0;
      for (int64_t c = 0; c < h.dim; ++c)
        magnitude += std::abs(h.q[i * h.dim + c] * h.k[j * h.dim + c]);
      score_magnitude = std::max(score_magnitude, magnitude * scale);
    }
    const T p_error =
        sum_error * (1 + score_magnitude);  // relative, of p: exp of a score that is off
    for (int64_t j = 0; j < h.tokens; ++j) {
      const T p = f.p[i * h.tokens + j];
      T dp = 0, dp_magnitude = 0;
      for (int64_t c = 0; c < h.dim; ++c) {
        dp += go[c] * h.v[j * h.dim + c];
        dp_magnitude += std::abs(go[c] * h.v[j * h.dim + c]);
      }
      const T ds = p * (dp - delta) * scale;
      const T ds_error =
          (u + p_error) * std::abs(ds) +
          p * scale * (u * delta_magnitude + sum_error * (delta_magnitude + dp_magnitude));
      for (int64_t c = 0; c < h.dim; ++c) {
        const int64_t qi = i * h.dim + c, kj = j * h.dim + c;
        g.q[qi] += ds * h.k[kj];
        g.q_bound[qi] += (ds_error + sum_error * std::abs(ds)) * std::abs(h.k[kj]);
        g.k[kj] += ds * h.q[qi];
        g.k_bound[kj] += (ds_error + sum_error * std::abs(ds)) * std::abs(h.q[qi]);
        g.v[kj] += p * go[c];
        g.v_bound[kj] += (u + p_error + sum_error) * std::abs(p * go[c]);
      }
    }
  }
  for (size_t i = 0; i < nq; ++i) g.q_bound[i] += u * std::abs(g.q[i]);
  for (size_t i = 0; i < nk; ++i) {
    g.k_bound[i] += u * std::abs(g.k[i]);
    g.v_bound[i] += u * std::abs(g.v[i]);
  }
  return g;
}

}  // namespace vitscale::reference

#endif  // TESTS_KERNELS_REFERENCE_ATTENTION_REFERENCE_H_
