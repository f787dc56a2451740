// The second pass of the optimizers: gradient, momentum and master are read once and written once.
// Contract: optimizer.h. Rules: AdafactorApplyArgs, AdamWApplyArgs and SgdApplyArgs in
// kernels/ops.h.
//
// Every rule gives u from the scaled gradient; then
//   m = momentum_decay m + gradient_share u;   p = p - (learning_rate m + weight_decay p)
// where m is stored as bf16 and the update uses it before it is rounded. The first product is taken
// in f32 from the widened momentum.

#include "kernels/cpu/grad_stats_simd.h"
#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

// Inside the moving average: big_vision optax.py, scale_by_adafactor.
constexpr float kMomentEpsilon = 1e-30f;

// Sums of squares in f64, or nothing.
struct NoSums {
  VITSCALE_BODY void Add(F32 parameter, F32 update) {}
  VITSCALE_BODY void Finish(UpdateSums* sums) {}
};
struct SquareSums {
  F64 parameter = ZeroDouble(), update = ZeroDouble();
  VITSCALE_BODY void Add(F32 p, F32 u) {
    const F64 wide_p = Widen(p), wide_u = Widen(u);
    parameter = parameter + wide_p * wide_p;
    update = update + wide_u * wide_u;
  }
  VITSCALE_BODY void Finish(UpdateSums* sums) {
    sums->parameter += ReduceAdd(parameter);
    sums->update += ReduceAdd(update);
  }
};

VITSCALE_INLINE F32 Times(SplitFloat a, F32 x) { return MulAdd(Set(a.value), x, Set(a.rest) * x); }
// The new full second moment: an average that does not drift however many steps it is taken.
template <typename Lanes>
VITSCALE_INLINE F32 NewMoment(const UpdateScalars& s, F32 square, float* second_moment,
                              Lanes lanes) {
  const F32 old = Load(second_moment, lanes);
  const F32 rest = MulAdd(Set(s.moment_decay.rest), old, Times(s.square_share, square));
  const F32 v = MulAdd(Set(s.moment_decay.value), old, rest);
  Store(second_moment, v, lanes);
  return v;
}

// From the new momentum on, all rules are the same.
template <typename Lanes, typename Sums>
VITSCALE_INLINE void TakeOff(const UpdateScalars& s, F32 momentum, float* parameter, Lanes lanes,
                             Sums& sums) {
  const F32 p = Load(parameter, lanes);
  const F32 update = MulAdd(Set(s.weight_decay), p, Times(s.learning_rate, momentum));
  const F32 after = p - update;
  Store(parameter, after, lanes);
  sums.Add(Keep(after, lanes, Zero()), Keep(update, lanes, Zero()));
}
// The scaled and clipped gradient.
template <typename Lanes>
VITSCALE_INLINE F32 Gradient(const UpdateScalars& s, const float* gradient, Lanes lanes) {
  const F32 g = Load(gradient, lanes);
  return Times(s.gradient_scale, g);
}
template <typename Lanes>
VITSCALE_INLINE F32 AddToMomentum(const UpdateScalars& s, F32 share, Bf16* momentum, Lanes lanes) {
  const F32 m = MulAdd(Set(s.momentum_decay), Load(momentum, lanes), share);
  Store(momentum, m, lanes);
  return m;
}
template <typename Lanes>
VITSCALE_INLINE F32 NewMomentum(const UpdateScalars& s, F32 u, Bf16* momentum, Lanes lanes) {
  return AddToMomentum(s, Set(s.gradient_share) * u, momentum, lanes);
}

// ---- rules --------------------------------------------------------------------------------------

template <typename Sums>
void AdafactorSpan(const UpdateScalars& s, const UpdateSpan& span, UpdateSums* out) {
  Sums sums;
  ForVectors(span.count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 g = Gradient(s, span.gradient + c, lanes);
    const F32 square = MulAdd(g, g, Set(kMomentEpsilon));
    const F32 v = NewMoment(s, square, span.second_moment + c, lanes);
    const F32 m = NewMomentum(s, g / Sqrt(v), span.momentum + c, lanes);
    TakeOff(s, m, span.parameter + c, lanes, sums);
  });
  sums.Finish(out);
}

// `count` neighbours whose row factor is `row(c, lanes)`.
template <typename RowFactor, typename Sums>
VITSCALE_INLINE void FactoredRun(const UpdateScalars& s, const UpdateSpan& all, int64_t at,
                                 int64_t count, const float* column_factors, const RowFactor& row,
                                 Sums& sums) {
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 g = Load(all.gradient + at + c, lanes);
    const F32 share = g * row(c, lanes) * Load(column_factors + c, lanes);
    const F32 m = AddToMomentum(s, share, all.momentum + at + c, lanes);
    TakeOff(s, m, all.parameter + at + c, lanes, sums);
  });
}

template <typename Sums>
void AdafactorFactoredSpan(const UpdateScalars& s, const FactoredSpan& span, UpdateSums* out) {
  Sums sums;
  const float* factor = span.row_factors;
  for (int64_t row = 0; row < span.rows; ++row) {
    for (int64_t c = 0; c < span.columns; c += span.segment, factor += span.inner) {
      const int64_t at = row * span.columns + c;
      if (span.inner == 1) {
        const F32 row_factor = Set(*factor);
        FactoredRun(
            s, span.elements, at, span.segment, span.column_factors + c,
            [&](int64_t, auto) VITSCALE_BODY { return row_factor; }, sums);
        continue;
      }
      for (int64_t j = 0; j < span.segment; j += span.inner) {
        FactoredRun(
            s, span.elements, at + j, span.inner, span.column_factors + c + j,
            [&](int64_t k, auto lanes) VITSCALE_BODY { return Load(factor + k, lanes); }, sums);
      }
    }
  }
  sums.Finish(out);
}

template <typename Sums>
void AdamWSpan(const UpdateScalars& s, const UpdateSpan& span, UpdateSums* out) {
  Sums sums;
  ForVectors(span.count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 g = Gradient(s, span.gradient + c, lanes);
    const F32 v = NewMoment(s, g * g, span.second_moment + c, lanes);
    const F32 m = NewMomentum(s, g, span.momentum + c, lanes);
    const F32 root = Sqrt(v * Set(s.moment_correction)) + Set(s.epsilon);
    TakeOff(s, m * Set(s.momentum_correction) / root, span.parameter + c, lanes, sums);
  });
  sums.Finish(out);
}

template <typename Sums>
void SgdSpan(const UpdateScalars& s, const UpdateSpan& span, UpdateSums* out) {
  Sums sums;
  ForVectors(span.count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F32 g = Gradient(s, span.gradient + c, lanes);
    TakeOff(s, NewMomentum(s, g, span.momentum + c, lanes), span.parameter + c, lanes, sums);
  });
  sums.Finish(out);
}

// ---- factored second moments --------------------------------------------------------------------

void DecayMoment(const float* sums, double scale, double beta2, float* v, int64_t count) {
  const F64 kept = WideSet(beta2), share = WideSet(1.0 - beta2), wide_scale = WideSet(scale);
  const F64 epsilon = WideSet(kMomentEpsilon);
  ForVectors(count, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
    const F64 mean = Widen(Load(sums + c, lanes)) * wide_scale + epsilon;
    Store(v + c, Narrow(kept * Widen(Load(v + c, lanes)) + share * mean), lanes);
  });
}

// ---- table --------------------------------------------------------------------------------------

#define VITSCALE_WITH_SUMS(Name, Span, Type)                                         \
  void Name(const UpdateScalars& s, const Type& span, UpdateSums* sums) {            \
    sums == nullptr ? Span<NoSums>(s, span, sums) : Span<SquareSums>(s, span, sums); \
  }
VITSCALE_WITH_SUMS(Adafactor, AdafactorSpan, UpdateSpan)
VITSCALE_WITH_SUMS(AdafactorFactored, AdafactorFactoredSpan, FactoredSpan)
VITSCALE_WITH_SUMS(AdamW, AdamWSpan, UpdateSpan)
VITSCALE_WITH_SUMS(Sgd, SgdSpan, UpdateSpan)
#undef VITSCALE_WITH_SUMS

}  // namespace

extern const OptimizerKernels kOptimizerKernels;
const OptimizerKernels kOptimizerKernels = {FactoredStats,     SquareSum, DecayMoment, Adafactor,
                                            AdafactorFactored, AdamW,     Sgd};

}  // namespace vitscale::cpu::VITSCALE_SIMD
