// Vectors of f32 for *_simd.cc files: 16 lanes with AVX-512, 8 with AVX2. Everything is inlined and
// lives in the namespace of the instruction set (isa.h). Masks of partial loads are the only
// branches on the lane count.
//
// Arithmetic is exactly what is written: no contraction, fused multiply-add only by MulAdd. Sums
// over lanes fold halves (lane i with lane i + n / 2), so a row sum has one fixed order per
// instruction set.

#ifndef KERNELS_CPU_SIMD_H_
#define KERNELS_CPU_SIMD_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/isa.h"

#ifndef VITSCALE_SIMD
#error "only *_simd.cc files include this header"
#endif
#define VITSCALE_INLINE static inline __attribute__((always_inline))

namespace vitscale::cpu::VITSCALE_SIMD {

#ifdef __AVX512F__

inline constexpr int64_t kLanes = 16;
struct F32 {
  __m512 v;
};
struct Mask {
  __mmask16 m;
};

VITSCALE_INLINE F32 Zero() { return {_mm512_setzero_ps()}; }
VITSCALE_INLINE F32 Set(float x) { return {_mm512_set1_ps(x)}; }
VITSCALE_INLINE Mask FirstLanes(int64_t n) {  // n >= 0; all lanes from kLanes on
  return {n >= kLanes ? __mmask16(0xffff) : __mmask16((1u << n) - 1u)};
}
VITSCALE_INLINE F32 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
VITSCALE_INLINE void Store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
VITSCALE_INLINE F32 LoadPartial(const float* p, int64_t n) {  // lanes from n on are 0
  return {_mm512_maskz_loadu_ps(FirstLanes(n).m, p)};
}
VITSCALE_INLINE void StorePartial(float* p, F32 x, int64_t n) {
  _mm512_mask_storeu_ps(p, FirstLanes(n).m, x.v);
}
VITSCALE_INLINE __m512 WidenBf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
VITSCALE_INLINE __m256i NarrowBf16(__m512 x) {  // nearest even; NaN stays NaN
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits,
                                 _mm512_set1_epi32(0x00400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}
VITSCALE_INLINE F32 Load(const Bf16* p) {
  return {WidenBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
VITSCALE_INLINE void Store(Bf16* p, F32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), NarrowBf16(x.v));
}
VITSCALE_INLINE F32 LoadPartial(const Bf16* p, int64_t n) {
  return {WidenBf16(_mm256_maskz_loadu_epi16(FirstLanes(n).m, p))};
}
VITSCALE_INLINE void StorePartial(Bf16* p, F32 x, int64_t n) {
  _mm256_mask_storeu_epi16(p, FirstLanes(n).m, NarrowBf16(x.v));
}
VITSCALE_INLINE F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 MulAdd(F32 a, F32 b, F32 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}  // a b + c
VITSCALE_INLINE F32 NegMulAdd(F32 a, F32 b, F32 c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}  // c - a b
VITSCALE_INLINE F32 Sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
VITSCALE_INLINE F32 Min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }  // b when either is NaN
VITSCALE_INLINE F32 Max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }  // b when either is NaN
VITSCALE_INLINE F32 Abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
VITSCALE_INLINE F32 RoundNearest(F32 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
VITSCALE_INLINE F32 Scale2(F32 x, F32 n) {
  return {_mm512_scalef_ps(x.v, n.v)};
}  // x 2^n, n integral
VITSCALE_INLINE Mask operator<(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
VITSCALE_INLINE F32 Select(Mask m, F32 yes, F32 no) {
  return {_mm512_mask_blend_ps(m.m, no.v, yes.v)};
}
VITSCALE_INLINE float ReduceAdd(F32 a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
VITSCALE_INLINE float ReduceMax(F32 a) { return _mm512_reduce_max_ps(a.v); }
VITSCALE_INLINE double ReduceAddDouble(F32 a) {
  const __m512d s = _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a.v)),
                                  _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)));
  return _mm512_reduce_add_pd(s);
}

#else  // AVX2

inline constexpr int64_t kLanes = 8;
struct F32 {
  __m256 v;
};
struct Mask {
  __m256 m;
};

VITSCALE_INLINE F32 Zero() { return {_mm256_setzero_ps()}; }
VITSCALE_INLINE F32 Set(float x) { return {_mm256_set1_ps(x)}; }
VITSCALE_INLINE Mask FirstLanes(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int count = n > kLanes ? static_cast<int>(kLanes) : static_cast<int>(n);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane))};
}
VITSCALE_INLINE F32 Load(const float* p) { return {_mm256_loadu_ps(p)}; }
VITSCALE_INLINE void Store(float* p, F32 x) { _mm256_storeu_ps(p, x.v); }
VITSCALE_INLINE F32 LoadPartial(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, _mm256_castps_si256(FirstLanes(n).m))};
}
VITSCALE_INLINE void StorePartial(float* p, F32 x, int64_t n) {
  _mm256_maskstore_ps(p, _mm256_castps_si256(FirstLanes(n).m), x.v);
}
VITSCALE_INLINE __m256 WidenBf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
VITSCALE_INLINE __m128i NarrowBf16(__m256 x) {  // nearest even; NaN stays NaN
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  rounded = _mm256_castps_si256(_mm256_blendv_ps(
      _mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  rounded = _mm256_srli_epi32(rounded, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
VITSCALE_INLINE F32 Load(const Bf16* p) {
  return {WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
VITSCALE_INLINE void Store(Bf16* p, F32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), NarrowBf16(x.v));
}
VITSCALE_INLINE F32 LoadPartial(const Bf16* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  Bf16 lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return Load(lanes);
}
VITSCALE_INLINE void StorePartial(Bf16* p, F32 x, int64_t n) {
  if (n >= kLanes) return Store(p, x);
  Bf16 lanes[kLanes];
  Store(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
VITSCALE_INLINE F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 MulAdd(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
VITSCALE_INLINE F32 NegMulAdd(F32 a, F32 b, F32 c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
VITSCALE_INLINE F32 Sqrt(F32 a) { return {_mm256_sqrt_ps(a.v)}; }
VITSCALE_INLINE F32 Min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 Max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
VITSCALE_INLINE F32 Abs(F32 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
VITSCALE_INLINE F32 RoundNearest(F32 a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
VITSCALE_INLINE F32
Scale2(F32 x,
       F32 n) {  // x 2^n, n integral, |n| <= 252: in two halves, so that results may be denormal
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const auto power = [](__m256i e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
  };
  return {_mm256_mul_ps(_mm256_mul_ps(x.v, power(half)), power(_mm256_sub_epi32(whole, half)))};
}
VITSCALE_INLINE Mask operator<(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
VITSCALE_INLINE F32 Select(Mask m, F32 yes, F32 no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
VITSCALE_INLINE float ReduceAdd(F32 a) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
VITSCALE_INLINE float ReduceMax(F32 a) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
VITSCALE_INLINE double ReduceAddDouble(F32 a) {
  const __m256d s = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a.v)),
                                  _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1)));
  const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
  return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

#endif  // AVX2

}  // namespace vitscale::cpu::VITSCALE_SIMD

#endif  // KERNELS_CPU_SIMD_H_
