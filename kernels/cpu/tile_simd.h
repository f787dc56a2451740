// The micro-kernels behind tile.h, for *_simd.cc files. A tile of R rows and V vectors of C stays
// in registers.

#ifndef KERNELS_CPU_TILE_SIMD_H_
#define KERNELS_CPU_TILE_SIMD_H_

#include <cstring>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/tile.h"

namespace vitscale::cpu::VITSCALE_SIMD {

// A unit of f32.
struct UnitF32 {
  using Word = float;
  VITSCALE_INLINE F32 Broadcast(const float* p) { return Set(*p); }
  VITSCALE_INLINE F32 LoadVector(const float* p) { return Load(p); }
  VITSCALE_INLINE F32 Multiply(F32 a, F32 b, F32 sum) { return MulAdd(a, b, sum); }
};

#ifdef __AVX512BF16__
// A unit of two bf16, carried in the bits of an F32.
struct UnitPair {
  using Word = uint32_t;
  VITSCALE_INLINE F32 Broadcast(const uint32_t* p) {
    return {_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*p)))};
  }
  VITSCALE_INLINE F32 LoadVector(const uint32_t* p) {
    return {_mm512_castsi512_ps(_mm512_loadu_si512(p))};
  }
  VITSCALE_INLINE F32 Multiply(F32 a, F32 b, F32 sum) {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
  }
};
#endif

// Rows of a tile for V vectors: as many accumulators as leave registers for V vectors of B and one
// unit of A.
#ifdef __AVX512F__
inline constexpr int kTileVectors = 4;  // at most
inline constexpr int kTileRows[kTileVectors + 1] = {0, 12, 10, 8, 6};
#else
inline constexpr int kTileVectors = 2;
inline constexpr int kTileRows[kTileVectors + 1] = {0, 10, 6};
#endif

template <typename Unit, bool kInterleaved, typename Out, int R, int V>
static void Tile(const TileMatmul& m, int64_t row, const typename Unit::Word* b, int64_t column) {
  using Word = typename Unit::Word;
  const Word* a = static_cast<const Word*>(m.a) + (kInterleaved ? row : row * m.a_stride);
  Out* c = static_cast<Out*>(m.c) + row * m.c_stride + column;
  const int64_t last =
      m.columns - column - (V - 1) * kLanes;  // lanes of the last vector that are in C
  F32 sum[R][V];
  for (int v = 0; v < V; ++v) {
    F32 start = Zero();
    if (m.bias != nullptr)
      start = LoadPartial(m.bias + column + v * kLanes, v + 1 < V ? kLanes : last);
    for (int r = 0; r < R; ++r) {
      sum[r][v] = start;
      if (m.accumulate) {
        sum[r][v] = LoadPartial(c + r * m.c_stride + v * kLanes, v + 1 < V ? kLanes : last);
      }
    }
  }
  const int64_t k = m.k, stride = m.a_stride;
  for (int64_t kk = 0; kk < k; ++kk, b += V * kLanes) {
    F32 right[V];
    for (int v = 0; v < V; ++v) right[v] = Unit::LoadVector(b + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const F32 left = Unit::Broadcast(kInterleaved ? a + r : a + r * stride);
      for (int v = 0; v < V; ++v) sum[r][v] = Unit::Multiply(left, right[v], sum[r][v]);
    }
    a += kInterleaved ? stride : 1;
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v + 1 < V; ++v) Store(c + r * m.c_stride + v * kLanes, sum[r][v]);
    StorePartial(c + r * m.c_stride + (V - 1) * kLanes, sum[r][V - 1], last);
  }
}

// Tile for a number of rows known at run time, 1 to kTileRows[V].
template <typename Unit, bool kInterleaved, typename Out, int V, int R = kTileRows[V]>
static void TileRowsOf(int rows, const TileMatmul& m, int64_t row, const typename Unit::Word* b,
                       int64_t column) {
  if constexpr (R >= 1) {
    if (rows == R) return Tile<Unit, kInterleaved, Out, R, V>(m, row, b, column);
    return TileRowsOf<Unit, kInterleaved, Out, V, R - 1>(rows, m, row, b, column);
  }
}

// One column block: rows in tiles of nearly equal height, since a low tile does not hide the
// latency of its sums.
template <typename Unit, bool kInterleaved, typename Out, int V>
static void Block(const TileMatmul& m, const typename Unit::Word* b, int64_t column) {
  const int64_t tiles = (m.rows + kTileRows[V] - 1) / kTileRows[V];
  for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {
    const int64_t next = m.rows * (tile + 1) / tiles;
    TileRowsOf<Unit, kInterleaved, Out, V>(static_cast<int>(next - row), m, row, b, column);
    row = next;
  }
}

// Vectors of block `block` when `vectors` are cut into blocks of nearly equal width.
VITSCALE_INLINE int64_t BlockBegin(int64_t vectors, int64_t block) {
  const int64_t blocks = (vectors + kTileVectors - 1) / kTileVectors;
  return vectors * block / blocks;
}

template <typename Unit, bool kInterleaved, typename Out>
static void Multiply(const TileMatmul& m) {
  const int64_t vectors = (m.columns + kLanes - 1) / kLanes;
  const int64_t blocks = (vectors + kTileVectors - 1) / kTileVectors;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = BlockBegin(vectors, block);
    const int64_t width = BlockBegin(vectors, block + 1) - begin;
    const auto* b = static_cast<const typename Unit::Word*>(m.b) + begin * kLanes * m.k;
    if (width == 1) Block<Unit, kInterleaved, Out, 1>(m, b, begin * kLanes);
    if (width == 2) Block<Unit, kInterleaved, Out, 2>(m, b, begin * kLanes);
    if constexpr (kTileVectors > 2) {
      if (width == 3) Block<Unit, kInterleaved, Out, 3>(m, b, begin * kLanes);
      if (width == 4) Block<Unit, kInterleaved, Out, 4>(m, b, begin * kLanes);
    }
  }
}

template <typename Unit>
static void MultiplyAny(const TileMatmul& m) {
  if (m.out == TileOut::kF32) {
    return m.a_interleaved ? Multiply<Unit, true, float>(m) : Multiply<Unit, false, float>(m);
  }
  return m.a_interleaved ? Multiply<Unit, true, Bf16>(m) : Multiply<Unit, false, Bf16>(m);
}

}  // namespace vitscale::cpu::VITSCALE_SIMD

#endif  // KERNELS_CPU_TILE_SIMD_H_
