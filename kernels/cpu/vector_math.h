// Elementary functions of f32 vectors for *_simd.cc files: branch-free, the same bits on every call
// and lane count.
//
// Coefficients are minimax fits (Remez exchange, 40 digits, then rounded to f32). The bounds below
// are those of cpu_vector_math_test.cc, which walks every exponent against f64.
//
//   Exp        1.1 ulp; NaN stays NaN; infinity from 88.73 on, zero below -104, denormals between
//   Log1pUnit  1.4 ulp; log(1 + t) for t in [0, 1]
//   Sigmoid    2.5 ulp down to x = -87; below that it stays under 2e-38
//   Tanh       1.4 ulp
//
// Range reduction of Exp in two constants: Cody and Waite, Software Manual for the Elementary
// Functions, 1980, ch. 6.

#ifndef KERNELS_CPU_VECTOR_MATH_H_
#define KERNELS_CPU_VECTOR_MATH_H_

#include "kernels/cpu/simd.h"

namespace vitscale::cpu::VITSCALE_SIMD {

// Min and Max give their second argument when either is NaN: clamps are written with x second.
VITSCALE_INLINE F32 Exp(F32 x) {
  x = Min(Set(89.0f), Max(Set(-104.5f), x));
  const F32 n = RoundNearest(x * Set(0x1.715476p+0f));  // 1 / ln 2
  // ln 2 in two parts; the first has 15 bits, so n * kLn2High is exact.
  F32 r = NegMulAdd(n, Set(0x1.62e4p-1f), x);
  r = NegMulAdd(n, Set(1.42860682030942e-6f), r);
  F32 p = MulAdd(Set(0.00138159620704f), r, Set(0.0083684682748f));
  p = MulAdd(p, r, Set(0.0416683376293f));
  p = MulAdd(p, r, Set(0.166665233732f));
  p = MulAdd(p, r, Set(0.499999938247f));
  p = MulAdd(r * r, p, r);  // e^r - 1, |r| <= ln 2 / 2
  return Scale2(p + Set(1.0f), n);
}

// log(1 + t) for 0 <= t <= 1.
VITSCALE_INLINE F32 Log1pUnit(F32 t) {
  F32 p = MulAdd(Set(-0.00331846992915f), t, Set(0.0202045745702f));
  p = MulAdd(p, t, Set(-0.0576644283563f));
  p = MulAdd(p, t, Set(0.106805544031f));
  p = MulAdd(p, t, Set(-0.153553960618f));
  p = MulAdd(p, t, Set(0.196954006654f));
  p = MulAdd(p, t, Set(-0.249585875069f));
  p = MulAdd(p, t, Set(0.333305113373f));
  p = MulAdd(p, t, Set(-0.499999327647f));
  return MulAdd(t * t, p, t);
}

// 1 / (1 + e^-x). The exponential is kept finite, so that 1 - Sigmoid(x) = e^-x * Sigmoid(x) is
// never 0 * infinity.
struct SigmoidParts {
  F32 value;       // 1 / (1 + e^-x)
  F32 complement;  // 1 - value, without cancellation
};
VITSCALE_INLINE SigmoidParts SigmoidBoth(F32 x) {
  const F32 e = Exp(Min(Set(87.5f), Zero() - x));
  const F32 value = Set(1.0f) / (e + Set(1.0f));
  return {value, e * value};
}
VITSCALE_INLINE F32 Sigmoid(F32 x) { return SigmoidBoth(x).value; }

VITSCALE_INLINE F32 CopySign(F32 magnitude, F32 sign) {
#ifdef __AVX512F__
  return {_mm512_or_ps(_mm512_andnot_ps(_mm512_set1_ps(-0.0f), magnitude.v),
                       _mm512_and_ps(_mm512_set1_ps(-0.0f), sign.v))};
#else
  return {_mm256_or_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), magnitude.v),
                       _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v))};
#endif
}

// Two forms: near 0 a polynomial in x^2, else 1 - 2 / (e^2|x| + 1), where nothing cancels.
VITSCALE_INLINE F32 Tanh(F32 x) {
  const F32 a = Abs(x);
  const F32 w = a * a;
  F32 p = MulAdd(Set(-0.00570498651461f), w, Set(0.0206390868321f));
  p = MulAdd(p, w, Set(-0.0537397149715f));
  p = MulAdd(p, w, Set(0.133314421971f));
  p = MulAdd(p, w, Set(-0.33333281942f));
  const F32 small = MulAdd(a * w, p, a);
  const F32 e = Exp(a + a);
  const F32 large = Set(1.0f) - Set(2.0f) / (e + Set(1.0f));
  return CopySign(Select(a < Set(0.625f), small, large), x);
}

// ---- sums in f64 --------------------------------------------------------------------------------
// One f64 per f32 lane, so that a sum has the order of the vectors and then that of ReduceAdd.

#ifdef __AVX512F__
struct F64 {
  __m512d low, high;
};
VITSCALE_INLINE F64 ZeroDouble() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
VITSCALE_INLINE F64 WideSet(double x) { return {_mm512_set1_pd(x), _mm512_set1_pd(x)}; }
VITSCALE_INLINE F64 Widen(F32 x) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(x.v)),
          _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1))};
}
VITSCALE_INLINE F32 Narrow(F64 x) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(x.low)),
                             _mm512_cvtpd_ps(x.high), 1)};
}
VITSCALE_INLINE F64 operator+(F64 a, F64 b) {
  return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
}
VITSCALE_INLINE F64 operator-(F64 a, F64 b) {
  return {_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)};
}
VITSCALE_INLINE F64 operator*(F64 a, F64 b) {
  return {_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)};
}
VITSCALE_INLINE double ReduceAdd(F64 a) {
  const __m512d s = _mm512_add_pd(a.low, a.high);
  // Builtins, because gcc 12 warns about its own _mm512_extractf64x4_pd.
  const __m256d q = _mm256_add_pd(__builtin_shufflevector(s, s, 0, 1, 2, 3),
                                  __builtin_shufflevector(s, s, 4, 5, 6, 7));
  const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(q), _mm256_extractf128_pd(q, 1));
  return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}
VITSCALE_INLINE Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
#else
struct F64 {
  __m256d low, high;
};
VITSCALE_INLINE F64 ZeroDouble() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
VITSCALE_INLINE F64 WideSet(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
VITSCALE_INLINE F64 Widen(F32 x) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x.v)),
          _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1))};
}
VITSCALE_INLINE F32 Narrow(F64 x) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(x.high), _mm256_cvtpd_ps(x.low))};
}
VITSCALE_INLINE F64 operator+(F64 a, F64 b) {
  return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}
VITSCALE_INLINE F64 operator-(F64 a, F64 b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
VITSCALE_INLINE F64 operator*(F64 a, F64 b) {
  return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
VITSCALE_INLINE double ReduceAdd(F64 a) {
  const __m256d s = _mm256_add_pd(a.low, a.high);
  const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
  return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}
VITSCALE_INLINE Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
#endif

}  // namespace vitscale::cpu::VITSCALE_SIMD

#endif  // KERNELS_CPU_VECTOR_MATH_H_
