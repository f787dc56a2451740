#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

constexpr float kLowest = -3.0e38f;

VITSCALE_INLINE float RowMax(const float* s, int64_t columns) {
  F32 max = Set(kLowest);
  ForVectors(columns, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    // NaN is kept: Max gives its second argument.
    max = Max(max, Keep(Load(s + c, lanes), lanes, Set(kLowest)));
  });
  return ReduceMax(max);
}

// s = exp(scale * (s - max)), zero beyond the last column; returns the sum.
VITSCALE_INLINE float ExpRow(const ScoreRows& shape, float* s, float max) {
  const F32 scale = Set(shape.scale), top = Set(max);
  RowSums sums;
  ForVectors(shape.columns, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    const F32 e = Keep(Exp((Load(s + c, lanes) - top) * scale), lanes, Zero());
    sums.part[slot] = sums.part[slot] + e;
    Store(s + c, e, Full{});  // the stride leaves room for whole vectors
  });
  return ReduceAdd(sums);
}

// Three passes over all rows, not one pass of three steps: the steps of one row wait for each
// other.
template <typename T>
void Forward(const ScoreRows& shape, float* s, T* p, float* max, float* sum) {
  for (int64_t r = 0; r < shape.rows; ++r) max[r] = RowMax(s + r * shape.stride, shape.columns);
  for (int64_t r = 0; r < shape.rows; ++r) sum[r] = ExpRow(shape, s + r * shape.stride, max[r]);
  for (int64_t r = 0; r < shape.rows; ++r) {
    const F32 inverse = Set(1.0f / sum[r]);
    const int64_t row = r * shape.stride;
    ForVectors(shape.columns, [&](int64_t c, auto, int) VITSCALE_BODY {
      Store(p + row + c, Load(s + row + c) * inverse, Full{});
    });
  }
}

// s = exp(scale * s - shift), zero beyond the last column; returns the sum of s * grad_p.
VITSCALE_INLINE float WeightRow(const ScoreRows& shape, float* s, const float* grad_p,
                                float log_sum_exp) {
  const F32 scale = Set(shape.scale), shift = Set(log_sum_exp);
  RowSums sums;
  ForVectors(shape.columns, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
    const F32 e = Keep(Exp(Load(s + c, lanes) * scale - shift), lanes, Zero());
    sums.part[slot] = MulAdd(e, Load(grad_p + c, lanes), sums.part[slot]);
    Store(s + c, e, Full{});
  });
  return ReduceAdd(sums);
}

// Two passes over all rows, for the same reason.
template <typename T>
void Backward(const ScoreRows& shape, float* s, const float* grad_p, const float* log_sum_exp,
              float* delta, T* p, T* grad_s) {
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t row = r * shape.stride;
    delta[r] = WeightRow(shape, s + row, grad_p + row, log_sum_exp[r]);
  }
  const F32 scale = Set(shape.scale);
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int64_t row = r * shape.stride;
    const F32 middle = Set(delta[r]);
    ForVectors(shape.columns, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
      const F32 e = Load(s + row + c);
      Store(p + row + c, e, Full{});
      Store(grad_s + row + c,
            Keep(e * (Load(grad_p + row + c, lanes) - middle) * scale, lanes, Zero()), Full{});
    });
  }
}

}  // namespace

extern const SoftmaxKernels kSoftmaxKernels;
const SoftmaxKernels kSoftmaxKernels = {Forward<float>, Forward<Bf16>, Backward<float>,
                                        Backward<Bf16>};

}  // namespace vitscale::cpu::VITSCALE_SIMD
