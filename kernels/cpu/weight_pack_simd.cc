// Contract: weight_pack.h. Bound by memory once both copies come from one reading: what counts is
// that lines are written whole, and past the caches where nobody will read them soon.

#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/transpose_simd.h"
#include "kernels/cpu/weight_pack.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

// ---- units out of f32 -------------------------------------------------------------------------

struct FloatUnits {
  static constexpr int64_t kPerUnit = 1;
  template <typename Lanes>
  VITSCALE_INLINE F32 Across(const float* p, int64_t, bool, Lanes lanes) {
    return Load(p, lanes);
  }
  // A vector of units along a row; of the last, `count` elements are left.
  VITSCALE_INLINE F32 Along(const float* p) { return Load(p); }
  VITSCALE_INLINE F32 Along(const float* p, int64_t count) { return LoadPartial(p, count); }
};

#ifdef __AVX512BF16__
struct Bf16Units {
  static constexpr int64_t kPerUnit = 2;
  // Columns of two rows side by side; of one row when it is the last.
  template <typename Lanes>
  VITSCALE_INLINE F32 Across(const float* p, int64_t stride, bool alone, Lanes lanes) {
    const __m512i low = _mm512_cvtepu16_epi32(NarrowBf16(Load(p, lanes).v));
    if (alone) return {_mm512_castsi512_ps(low)};
    const __m512i high = _mm512_cvtepu16_epi32(NarrowBf16(Load(p + stride, lanes).v));
    return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)))};
  }
  VITSCALE_INLINE F32 Pairs(F32 first, F32 second) {
    return {_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(second.v, first.v))};
  }
  VITSCALE_INLINE F32 Along(const float* p) { return Pairs(Load(p), Load(p + kLanes)); }
  VITSCALE_INLINE F32 Along(const float* p, int64_t count) {
    return Pairs(LoadPartial(p, count),
                 count > kLanes ? LoadPartial(p + kLanes, count - kLanes) : Zero());
  }
};
#else
// Rounded to bf16, multiplied as f32.
struct Bf16Units {
  static constexpr int64_t kPerUnit = 1;
  template <typename Lanes>
  VITSCALE_INLINE F32 Across(const float* p, int64_t, bool, Lanes lanes) {
    return {WidenBf16(NarrowBf16(Load(p, lanes).v))};
  }
  VITSCALE_INLINE F32 Along(const float* p) { return {WidenBf16(NarrowBf16(Load(p).v))}; }
  VITSCALE_INLINE F32 Along(const float* p, int64_t count) {
    return {WidenBf16(NarrowBf16(LoadPartial(p, count).v))};
  }
};
#endif

// ---- stores -----------------------------------------------------------------------------------

struct Cached {
  template <typename Lanes>
  VITSCALE_INLINE void Put(float* p, F32 x, Lanes lanes) {
    Store(p, x, lanes);
  }
};
struct Streamed {  // whole lines pass the caches
  VITSCALE_INLINE void Put(float* p, F32 x, Full) {
#ifdef __AVX512F__
    _mm512_stream_ps(p, x.v);
#else
    _mm256_stream_ps(p, x.v);
#endif
  }
  VITSCALE_INLINE void Put(float* p, F32 x, Tail tail) { Store(p, x, tail); }
};
VITSCALE_INLINE bool MayStream(const PackRectangle& r) {
  const int64_t bytes = kLanes * static_cast<int64_t>(sizeof(float));
  return r.stream && reinterpret_cast<uintptr_t>(r.to) % bytes == 0 && r.to_stride % kLanes == 0;
}

// ---- the two kernels --------------------------------------------------------------------------

template <typename Units, typename Stores>
void RowsBy(const PackRectangle& r) {
  const int64_t units = (r.k + Units::kPerUnit - 1) / Units::kPerUnit;
  for (int64_t kk = 0; kk < units; ++kk) {
    const float* from = r.source + kk * Units::kPerUnit * r.stride;
    float* to = static_cast<float*>(r.to) + kk * r.to_stride;
    const bool alone = (kk + 1) * Units::kPerUnit > r.k;
    ForVectors(r.columns, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
      Stores::Put(to + c, Units::Across(from + c, r.stride, alone, lanes), lanes);
    });
  }
}

// kLanes units of kLanes columns.
template <typename Units, typename Stores>
VITSCALE_INLINE void Square(const float* from, int64_t stride, float* to, int64_t to_stride) {
  F32 x[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) x[i] = Units::Along(from + i * stride);
  Transpose(x);
  for (int64_t i = 0; i < kLanes; ++i) Stores::Put(to + i * to_stride, x[i], Full{});
}
// The same at an edge: `k` elements of `columns`.
template <typename Units>
void Corner(const float* from, int64_t stride, int64_t k, int64_t columns, float* to,
            int64_t to_stride) {
  F32 x[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    x[i] = i < columns ? Units::Along(from + i * stride, k) : Zero();
  }
  Transpose(x);
  const int64_t units = (k + Units::kPerUnit - 1) / Units::kPerUnit;
  for (int64_t i = 0; i < kLanes && i < units; ++i) StorePartial(to + i * to_stride, x[i], columns);
}

template <typename Units, typename Stores>
void TransposedBy(const PackRectangle& r) {
  constexpr int64_t kStep = kLanes * Units::kPerUnit;
  for (int64_t k = 0; k < r.k; k += kStep) {
    for (int64_t column = 0; column < r.columns; column += kLanes) {
      const float* from = r.source + column * r.stride + k;
      float* to = static_cast<float*>(r.to) + k / Units::kPerUnit * r.to_stride + column;
      const int64_t k_left = r.k - k, columns_left = r.columns - column;
      if (k_left >= kStep && columns_left >= kLanes) {
        Square<Units, Stores>(from, r.stride, to, r.to_stride);
      } else {
        Corner<Units>(from, r.stride, k_left, columns_left, to, r.to_stride);
      }
    }
  }
}

template <typename Units>
void Rows(const PackRectangle& r) {
  MayStream(r) ? RowsBy<Units, Streamed>(r) : RowsBy<Units, Cached>(r);
}
template <typename Units>
void Transposed(const PackRectangle& r) {
  MayStream(r) ? TransposedBy<Units, Streamed>(r) : TransposedBy<Units, Cached>(r);
}

}  // namespace

extern const WeightPackKernels kWeightPackF32;
extern const WeightPackKernels kWeightPackBf16;
const WeightPackKernels kWeightPackF32 = {Rows<FloatUnits>, Transposed<FloatUnits>};
const WeightPackKernels kWeightPackBf16 = {Rows<Bf16Units>, Transposed<Bf16Units>};

}  // namespace vitscale::cpu::VITSCALE_SIMD
