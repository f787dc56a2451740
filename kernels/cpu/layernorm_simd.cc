// LayerNorm on rows that are in cache. Contract: LayerNormArgs and friends in kernels/ops.h.
//
//   forward   sum = x + delta, rounded to the type of x;  mean, then sum of squared differences
//             y = (x - mean) inv_std gamma + beta
//   backward  with h = (x - mean) inv_std and e = grad_y gamma:
//             grad_x = grad_residual + inv_std (e - mean(e) - h mean(e h))
//             grad_gamma += grad_y h;  grad_beta += grad_y

#include <cmath>

#include "kernels/cpu/layernorm.h"
#include "kernels/cpu/simd_loop.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

// ---- forward ------------------------------------------------------------------------------------

template <typename X, typename Delta>
VITSCALE_INLINE float RowSum(const X* x, const Delta* delta, X* sum, int64_t width) {
  RowSums sums;
  ForVectors(width, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    F32 value = Load(x + c, lanes);
    if constexpr (kPresent<Delta>) {
      Store(sum + c, value + Load(delta + c, lanes), lanes);
      value = Load(sum + c, lanes);  // as it was rounded
    }
    sums.part[slot] = sums.part[slot] + value;
  });
  return ReduceAdd(sums);
}

template <typename X>
VITSCALE_INLINE float RowSquares(const X* x, float mean, int64_t width) {
  RowSums sums;
  ForVectors(width, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    const F32 d = Keep(Load(x + c, lanes) - Set(mean), lanes, Zero());
    sums.part[slot] = MulAdd(d, d, sums.part[slot]);
  });
  return ReduceAdd(sums);
}

template <typename X, typename Y>
VITSCALE_INLINE void Normalise(const X* x, float mean, float inv_std, const float* gamma,
                               const float* beta, int64_t width, Y* y) {
  ForVectors(width, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 h = (Load(x + c, lanes) - Set(mean)) * Set(inv_std);
    Store(y + c, MulAdd(h, Load(gamma + c, lanes), Load(beta + c, lanes)), lanes);
  });
}

template <typename X, typename Delta, typename Y>
void Forward(const LayerNormRows& rows, int64_t begin, int64_t end) {
  const int64_t width = rows.width;
  const float scale = 1.0f / static_cast<float>(width);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * width;
    const Delta* delta =
        kPresent<Delta> ? Advance(static_cast<const Delta*>(rows.delta), at) : nullptr;
    X* sum = kPresent<Delta> ? static_cast<X*>(rows.sum) + at : nullptr;
    const X* before = static_cast<const X*>(rows.x) + at;
    const float mean = RowSum(before, delta, sum, width) * scale;
    const X* x = kPresent<Delta> ? sum : before;
    const float variance = RowSquares(x, mean, width) * scale;
    const float inv_std = 1.0f / std::sqrt(variance + rows.epsilon);
    Normalise(x, mean, inv_std, rows.gamma, rows.beta, width, static_cast<Y*>(rows.y) + at);
    if (rows.mean != nullptr) rows.mean[row] = mean;
    if (rows.inv_std != nullptr) rows.inv_std[row] = inv_std;
  }
}

// ---- backward -----------------------------------------------------------------------------------

struct GradMeans {
  float e;   // mean of grad_y gamma
  float eh;  // mean of grad_y gamma h
};

template <typename X, typename GradY>
VITSCALE_INLINE GradMeans RowMeans(const GradY* grad_y, const X* x, const float* gamma, float mean,
                                   float inv_std, int64_t width, float* shares) {
  RowSums e, eh;
  ForVectors(width, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    const F32 gradient = Load(grad_y + c, lanes);
    const F32 h = (Load(x + c, lanes) - Set(mean)) * Set(inv_std);
    const F32 scaled = gradient * Load(gamma + c, lanes);  // 0 beyond the tail, as the gradient is
    e.part[slot] = e.part[slot] + scaled;
    eh.part[slot] = MulAdd(scaled, h, eh.part[slot]);
    Store(shares + c, MulAdd(gradient, h, Load(shares + c, lanes)), lanes);
    Store(shares + width + c, gradient + Load(shares + width + c, lanes), lanes);
  });
  const float scale = 1.0f / static_cast<float>(width);
  return {ReduceAdd(e) * scale, ReduceAdd(eh) * scale};
}

template <typename X, typename GradY, typename Cast>
void Backward(const LayerNormGradRows& rows, int64_t begin, int64_t end, float* shares) {
  const int64_t width = rows.width;
  ForVectors(2 * width,
             [&](int64_t c, auto lanes, int) VITSCALE_BODY { Store(shares + c, Zero(), lanes); });
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * width;
    const GradY* grad_y = static_cast<const GradY*>(rows.grad_y) + at;
    const X* x = static_cast<const X*>(rows.x) + at;
    const float mean = rows.mean[row];
    const float inv_std = rows.inv_std[row];
    const GradMeans means = RowMeans(grad_y, x, rows.gamma, mean, inv_std, width, shares);
    const float* residual = rows.grad_residual != nullptr ? rows.grad_residual + at : nullptr;
    Cast* cast = Advance(static_cast<Cast*>(rows.grad_x_cast), at);
    ForVectors(width, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
      const F32 h = (Load(x + c, lanes) - Set(mean)) * Set(inv_std);
      const F32 e = Load(grad_y + c, lanes) * Load(rows.gamma + c, lanes);
      F32 gradient = NegMulAdd(h, Set(means.eh), e - Set(means.e)) * Set(inv_std);
      if (residual != nullptr) gradient = gradient + Load(residual + c, lanes);
      Store(rows.grad_x + at + c, gradient, lanes);
      Store(Advance(cast, c), gradient, lanes);
    });
  }
}

template <typename X, typename Y>
void Again(const LayerNormGradRows& rows, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * rows.width;
    Normalise(static_cast<const X*>(rows.x) + at, rows.mean[row], rows.inv_std[row], rows.gamma,
              rows.beta, rows.width, static_cast<Y*>(rows.y) + at);
  }
}

}  // namespace

extern const LayerNormKernels kLayerNormKernels;
const LayerNormKernels kLayerNormKernels = {
    {{},
     {{nullptr, Forward<float, None, float>, Forward<float, None, Bf16>},
      {nullptr, Forward<float, float, float>, Forward<float, float, Bf16>},
      {nullptr, Forward<float, Bf16, float>, Forward<float, Bf16, Bf16>}},
     {{nullptr, Forward<Bf16, None, float>, Forward<Bf16, None, Bf16>},
      {nullptr, Forward<Bf16, float, float>, Forward<Bf16, float, Bf16>},
      {nullptr, Forward<Bf16, Bf16, float>, Forward<Bf16, Bf16, Bf16>}}},
    {{},
     {{},
      {Backward<float, float, None>, Backward<float, float, float>, Backward<float, float, Bf16>},
      {Backward<float, Bf16, None>, Backward<float, Bf16, float>, Backward<float, Bf16, Bf16>}},
     {{},
      {Backward<Bf16, float, None>, Backward<Bf16, float, float>, Backward<Bf16, float, Bf16>},
      {Backward<Bf16, Bf16, None>, Backward<Bf16, Bf16, float>, Backward<Bf16, Bf16, Bf16>}}},
    {{},
     {nullptr, Again<float, float>, Again<float, Bf16>},
     {nullptr, Again<Bf16, float>, Again<Bf16, Bf16>}}};

}  // namespace vitscale::cpu::VITSCALE_SIMD
