// Transposes a square of 32-bit lanes in registers, for *_simd.cc files.

#ifndef KERNELS_CPU_TRANSPOSE_SIMD_H_
#define KERNELS_CPU_TRANSPOSE_SIMD_H_

#include "kernels/cpu/simd.h"

namespace vitscale::cpu::VITSCALE_SIMD {

#ifdef __AVX512F__
VITSCALE_INLINE __m512 UnpackLow64(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
VITSCALE_INLINE __m512 UnpackHigh64(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
// Pairs, then pairs of pairs, within 128-bit lanes; then the lanes themselves in two shuffles.
VITSCALE_INLINE void Transpose(F32 (&x)[16]) {
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(x[i].v, x[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(x[i].v, x[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {
    u[i] = UnpackLow64(t[i], t[i + 2]);
    u[i + 1] = UnpackHigh64(t[i], t[i + 2]);
    u[i + 2] = UnpackLow64(t[i + 1], t[i + 3]);
    u[i + 3] = UnpackHigh64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
    x[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
    x[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
    x[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
    x[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}
#else
VITSCALE_INLINE void Transpose(F32 (&x)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(x[i].v, x[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(x[i].v, x[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    x[i].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    x[i + 4].v = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}
#endif

}  // namespace vitscale::cpu::VITSCALE_SIMD

#endif  // KERNELS_CPU_TRANSPOSE_SIMD_H_
