// LayerNorm on rows that are in cache. Contract: LayerNormArgs and friends in kernels/ops.h.
//
//   forward   sum = x + delta;  mean, then sum of squared differences
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

template <typename Delta>
VITSCALE_INLINE float RowSum(const float* x, const Delta* delta, float* sum, int64_t width) {
  RowSums sums;
  ForVectors(width, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    F32 value = Load(x + c, lanes);
    if constexpr (kPresent<Delta>) {
      value = value + Load(delta + c, lanes);
      Store(sum + c, value, lanes);
    }
    sums.part[slot] = sums.part[slot] + value;
  });
  return ReduceAdd(sums);
}

VITSCALE_INLINE float RowSquares(const float* x, float mean, int64_t width) {
  RowSums sums;
  ForVectors(width, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    const F32 d = Keep(Load(x + c, lanes) - Set(mean), lanes, Zero());
    sums.part[slot] = MulAdd(d, d, sums.part[slot]);
  });
  return ReduceAdd(sums);
}

template <typename Delta, typename Y>
void Forward(const LayerNormRows& rows, int64_t begin, int64_t end) {
  const int64_t width = rows.width;
  const float scale = 1.0f / static_cast<float>(width);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * width;
    const Delta* delta =
        kPresent<Delta> ? Advance(static_cast<const Delta*>(rows.delta), at) : nullptr;
    float* sum = kPresent<Delta> ? rows.sum + at : nullptr;
    const float mean = RowSum(rows.x + at, delta, sum, width) * scale;
    const float* x = kPresent<Delta> ? sum : rows.x + at;
    const float variance = RowSquares(x, mean, width) * scale;
    const float inv_std = 1.0f / std::sqrt(variance + rows.epsilon);
    Y* y = static_cast<Y*>(rows.y) + at;
    ForVectors(width, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
      const F32 h = (Load(x + c, lanes) - Set(mean)) * Set(inv_std);
      Store(y + c, MulAdd(h, Load(rows.gamma + c, lanes), Load(rows.beta + c, lanes)), lanes);
    });
    if (rows.mean != nullptr) rows.mean[row] = mean;
    if (rows.inv_std != nullptr) rows.inv_std[row] = inv_std;
  }
}

// ---- backward -----------------------------------------------------------------------------------

struct GradMeans {
  float e;   // mean of grad_y gamma
  float eh;  // mean of grad_y gamma h
};

template <typename GradY>
VITSCALE_INLINE GradMeans RowMeans(const GradY* grad_y, const float* x, const float* gamma,
                                   float mean, float inv_std, int64_t width, float* shares) {
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

template <typename GradY, typename Cast>
void Backward(const LayerNormGradRows& rows, int64_t begin, int64_t end, float* shares) {
  const int64_t width = rows.width;
  ForVectors(2 * width,
             [&](int64_t c, auto lanes, int) VITSCALE_BODY { Store(shares + c, Zero(), lanes); });
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * width;
    const GradY* grad_y = static_cast<const GradY*>(rows.grad_y) + at;
    const float* x = rows.x + at;
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

}  // namespace

extern const LayerNormKernels kLayerNormKernels;
const LayerNormKernels kLayerNormKernels = {
    {{nullptr, Forward<None, float>, Forward<None, Bf16>},
     {nullptr, Forward<float, float>, Forward<float, Bf16>},
     {nullptr, Forward<Bf16, float>, Forward<Bf16, Bf16>}},
    {{nullptr, nullptr, nullptr},
     {Backward<float, None>, Backward<float, float>, Backward<float, Bf16>},
     {Backward<Bf16, None>, Backward<Bf16, float>, Backward<Bf16, Bf16>}}};

}  // namespace vitscale::cpu::VITSCALE_SIMD
