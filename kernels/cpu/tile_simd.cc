#include "kernels/cpu/tile_simd.h"

#include "kernels/cpu/transpose_simd.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

// ---- from elements to units -------------------------------------------------------------------

// Reads units out of a matrix of T. AlongRow: unit `kk` of one row. Across: one unit row of columns
// [column, +n).
template <typename Unit, typename T>
struct Reader;

template <typename T>
struct Reader<UnitF32, T> {
  static constexpr int64_t kPerLane = 1;
  VITSCALE_INLINE F32 AlongRow(const T* row, int64_t kk, int64_t k) {
    return LoadPartial(row + kk, k - kk);
  }
  VITSCALE_INLINE F32 Across(const T* source, int64_t stride, int64_t kk, int64_t, int64_t column,
                             int64_t n) {
    return LoadPartial(source + kk * stride + column, n);
  }
};

#ifdef __AVX512BF16__
template <>
struct Reader<UnitPair, Bf16> {
  static constexpr int64_t kPerLane = 2;
  VITSCALE_INLINE F32 AlongRow(const Bf16* row, int64_t kk, int64_t k) {
    const int64_t left = k - 2 * kk;
    const __mmask32 mask = left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, row + 2 * kk))};
  }
  VITSCALE_INLINE F32 Across(const Bf16* source, int64_t stride, int64_t kk, int64_t k,
                             int64_t column, int64_t n) {
    const Bf16* p = source + 2 * kk * stride + column;
    const __mmask16 mask = FirstLanes(n).m;
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
    if (2 * kk + 1 == k) return {_mm512_castsi512_ps(low)};
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p + stride));
    return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)))};
  }
};
#endif

#ifdef __AVX512BF16__
// Two whole vectors of pairs out of 32 columns of two rows.
VITSCALE_INLINE void InterleavePair(const Bf16* low, const Bf16* high, float* to) {
  const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  const __m512i a = _mm512_loadu_si512(low), b = _mm512_loadu_si512(high);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, first, b));
  _mm512_storeu_si512(to + kLanes, _mm512_permutex2var_epi16(a, second, b));
}
#endif

// Unit row `kk` of columns [column, end), as whole vectors.
template <typename Unit, typename T>
VITSCALE_INLINE void AcrossVectors(const T* source, int64_t stride, int64_t kk, int64_t k,
                                   int64_t column, int64_t end, float* to) {
#ifdef __AVX512BF16__
  if constexpr (Reader<Unit, T>::kPerLane == 2) {
    const T* row = source + 2 * kk * stride;
    for (; 2 * kk + 1 < k && column + 2 * kLanes <= end; column += 2 * kLanes, to += 2 * kLanes) {
      InterleavePair(row + column, row + stride + column, to);
    }
  }
#endif
  for (; column < end; column += kLanes, to += kLanes) {
    Store(to, Reader<Unit, T>::Across(source, stride, kk, k, column, end - column));
  }
}

template <typename Unit, typename T>
int64_t UnitsOf(int64_t k) {
  return (k + Reader<Unit, T>::kPerLane - 1) / Reader<Unit, T>::kPerLane;
}

// Row by row over a few column blocks at a time, so that the source is read as it lies in memory.
template <typename Unit, typename T>
void PackRows(const void* source, int64_t stride, int64_t k, int64_t columns, void* b) {
  constexpr int64_t kBlocks = 8;
  const auto* from = static_cast<const T*>(source);
  const int64_t units = UnitsOf<Unit, T>(k), vectors = (columns + kLanes - 1) / kLanes;
  const int64_t blocks = (vectors + kTileVectors - 1) / kTileVectors;
  for (int64_t block = 0; block < blocks; block += kBlocks) {
    const int64_t n = blocks - block < kBlocks ? blocks - block : kBlocks;
    int64_t edge[kBlocks + 1];
    for (int64_t i = 0; i <= n; ++i) edge[i] = BlockBegin(vectors, block + i) * kLanes;
    for (int64_t kk = 0; kk < units; ++kk) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t end = edge[i + 1] < columns ? edge[i + 1] : columns;
        AcrossVectors<Unit, T>(
            from, stride, kk, k, edge[i], end,
            static_cast<float*>(b) + edge[i] * units + kk * (edge[i + 1] - edge[i]));
      }
    }
  }
}

template <typename Unit, typename T>
void InterleaveRows(const void* source, int64_t stride, int64_t k, int64_t columns, void* a) {
  auto* to = static_cast<float*>(a);
  const int64_t units = UnitsOf<Unit, T>(k);
  const int64_t padded = (columns + kLanes - 1) / kLanes * kLanes;
  for (int64_t kk = 0; kk < units; ++kk) {
    AcrossVectors<Unit, T>(static_cast<const T*>(source), stride, kk, k, 0, columns,
                           to + kk * padded);
  }
}

// kLanes columns and kLanes units at a time.
template <typename Unit, typename T>
void PackColumns(const void* source, int64_t stride, int64_t k, int64_t columns, void* b) {
  const auto* from = static_cast<const T*>(source);
  const int64_t units = UnitsOf<Unit, T>(k), vectors = (columns + kLanes - 1) / kLanes;
  const int64_t blocks = (vectors + kTileVectors - 1) / kTileVectors;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = BlockBegin(vectors, block),
                  width = BlockBegin(vectors, block + 1) - begin;
    float* to = static_cast<float*>(b) + begin * kLanes * units;
    for (int64_t v = 0; v < width; ++v) {
      for (int64_t kk = 0; kk < units; kk += kLanes) {
        F32 x[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) {
          const int64_t column = (begin + v) * kLanes + i;
          x[i] =
              column < columns ? Reader<Unit, T>::AlongRow(from + column * stride, kk, k) : Zero();
        }
        Transpose(x);
        for (int64_t i = 0; i < kLanes; ++i) {
          if (kk + i < units) Store(to + ((kk + i) * width + v) * kLanes, x[i]);
        }
      }
    }
  }
}

template <typename Unit, typename T>
const void* Natural(const void* source, int64_t stride, int64_t rows, int64_t k, void* copy,
                    int64_t* a_stride) {
  constexpr int64_t kPerLane = Reader<Unit, T>::kPerLane;
  if (sizeof(T) * kPerLane == sizeof(float) && stride % kPerLane == 0 && k % kPerLane == 0) {
    *a_stride = stride / kPerLane;
    return source;
  }
  const int64_t units = UnitsOf<Unit, T>(k);
  for (int64_t row = 0; row < rows; ++row) {
    float* to = static_cast<float*>(copy) + row * units;
    for (int64_t kk = 0; kk < units; kk += kLanes) {
      StorePartial(to + kk,
                   Reader<Unit, T>::AlongRow(static_cast<const T*>(source) + row * stride, kk, k),
                   units - kk);
    }
  }
  *a_stride = units;
  return copy;
}

template <typename Unit, typename T>
constexpr TileKernels Table() {
  TileKernels table;
  table.units_per_lane = Reader<Unit, T>::kPerLane;
  table.lanes = kLanes;
  table.block_vectors = kTileVectors;
  table.multiply = MultiplyAny<Unit>;
  table.pack_rows = PackRows<Unit, T>;
  table.interleave_rows = InterleaveRows<Unit, T>;
  table.pack_columns = PackColumns<Unit, T>;
  table.natural = Natural<Unit, T>;
  return table;
}

}  // namespace

extern const TileKernels kTileKernelsF32;
extern const TileKernels kTileKernelsBf16;
const TileKernels kTileKernelsF32 = Table<UnitF32, float>();
#ifdef __AVX512BF16__
const TileKernels kTileKernelsBf16 = Table<UnitPair, Bf16>();
#else
const TileKernels kTileKernelsBf16 = Table<UnitF32, Bf16>();
#endif

}  // namespace vitscale::cpu::VITSCALE_SIMD
