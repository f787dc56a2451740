// GELU in the tanh form, written with the logistic function: 0.5 (1 + tanh u) = sigmoid(2 u), so
//
//   gelu(x)  = x s            with s = sigmoid(z), z = 2 sqrt(2 / pi) (x + 0.044715 x^3)
//   gelu'(x) = s + x s (1 - s) z'
//
// One exponential and one division per element, and no cancellation in the negative tail.

#include "kernels/cpu/gelu.h"
#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

constexpr float kSlope = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 1.5957691216057308f * 0.044715f;

VITSCALE_INLINE F32 Gelu(F32 x) { return x * Sigmoid(x * MulAdd(x * x, Set(kCubic), Set(kSlope))); }

struct GeluParts {
  F32 value, derivative;
};
VITSCALE_INLINE GeluParts GeluBoth(F32 x) {
  const F32 square = x * x;
  const F32 z = x * MulAdd(square, Set(kCubic), Set(kSlope));
  const F32 slope = MulAdd(square, Set(3.0f * kCubic), Set(kSlope));  // z'
  const SigmoidParts s = SigmoidBoth(z);
  return {x * s.value, MulAdd(x * slope, s.value * s.complement, s.value)};
}

template <typename T>
void ForwardRows(const T* pre, T* y, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int)
                        VITSCALE_BODY { Store(y + c, Gelu(Load(pre + c, lanes)), lanes); });
}

template <typename T>
void BackwardRows(const T* grad_y, const T* pre, T* grad_x, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    Store(grad_x + c, Load(grad_y + c, lanes) * GeluBoth(Load(pre + c, lanes)).derivative, lanes);
  });
}

template <typename T>
void BothRows(const T* grad_y, const T* pre, T* grad_x, T* y, int64_t count) {
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const GeluParts gelu = GeluBoth(Load(pre + c, lanes));
    Store(y + c, gelu.value, lanes);
    Store(grad_x + c, Load(grad_y + c, lanes) * gelu.derivative, lanes);
  });
}

}  // namespace

extern const GeluKernels kGeluKernels;
const GeluKernels kGeluKernels = {ForwardRows<float>, ForwardRows<Bf16>, BackwardRows<float>,
                                  BackwardRows<Bf16>, BothRows<float>,   BothRows<Bf16>};

}  // namespace vitscale::cpu::VITSCALE_SIMD
