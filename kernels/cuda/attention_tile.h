// What the passes of self-attention share: tiles of bf16 rows in shared memory, and the fragments
// that the tensor cores take from them.
//
// A tile is [rows, kDim + 8] where kDim is the head dim rounded up to 16. Its rows are an odd
// number of 16-byte units apart, so the eight rows that LoadMatrix reads at once lie in eight
// different groups of four banks: no conflicts. Columns [head dim, kDim) and rows beyond the last
// token are zero; the last 8 columns are never touched.

#ifndef KERNELS_CUDA_ATTENTION_TILE_H_
#define KERNELS_CUDA_ATTENTION_TILE_H_

#include <cstdint>

#include "kernels/cuda/dialect/async_copy.h"
#include "kernels/cuda/dialect/fast_math.h"
#include "kernels/cuda/dialect/mma.h"
#include "kernels/cuda/dialect/shared.h"
#include "kernels/cuda/dialect/warp.h"

namespace vitscale::cuda {

inline constexpr int kAttentionWarps = 4;
inline constexpr int kAttentionThreads = kAttentionWarps * kWarpLanes;
inline constexpr int kMmaRows = 16;  // of A and C; also the summed dimension of one product
inline constexpr float kLog2E = 1.44269504088896341f;

// Of one launch. A block is one tile of rows of one head of one image; tiles of a head are
// neighbours, so the rows of the other side that they share are in the L2 cache.
struct AttentionShape {
  int tokens = 0, heads = 0, head_dim = 0;
  int tiles = 0;    // of a head
  float scale = 0;  // 1 / sqrt(head_dim)
  __device__ int64_t width() const { return static_cast<int64_t>(heads) * head_dim; }
};

struct AttentionPlace {
  int64_t image;
  int head, tile;
};
__device__ inline AttentionPlace PlaceOfBlock(const AttentionShape& shape) {
  const int block = static_cast<int>(blockIdx.x), of_all_heads = block / shape.tiles;
  return {of_all_heads / shape.heads, of_all_heads % shape.heads, block % shape.tiles};
}

// The rows of one head of one image, inside a matrix whose rows hold more.
template <typename T>
struct HeadRows {
  T* at;  // row 0, column 0 of the head
  int stride;
  __device__ T* Row(int row) const { return at + static_cast<int64_t>(row) * stride; }
};

// Part 0, 1 or 2 (q, k, v) of `packed` [rows, parts * width].
template <typename T>
__device__ inline HeadRows<T> HeadPart(T* packed, const AttentionShape& shape,
                                       const AttentionPlace& place, int parts, int part) {
  const int64_t width = shape.width();
  return {packed + place.image * shape.tokens * parts * width + part * width +
              static_cast<int64_t>(place.head) * shape.head_dim,
          static_cast<int>(parts * width)};
}

template <int kRows, int kDim>
using AttentionTile = SharedArray<Bf16, kRows*(kDim + 8)>;

// Starts to copy rows [first, first + kRows); the caller commits. All threads of the block: up to 8
// threads take a row, each of them the same columns of every row, so that addresses are sums.
template <int kRows, int kDim>
__device__ inline void CopyTile(AttentionTile<kRows, kDim>& to, const HeadRows<const Bf16>& from,
                                int first, const AttentionShape& shape) {
  constexpr int kUnits = kDim / 8;  // of 16 bytes
  constexpr int kThreadsOfRow = kUnits >= 8 ? 8 : kUnits == 6 ? 2 : kUnits;
  constexpr int kRowStep = kAttentionThreads / kThreadsOfRow;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int step = 0; step < kRows; step += kRowStep) {
    const int row = step + thread / kThreadsOfRow;
    const Bf16* from_row = from.Row(first + row);
#pragma unroll
    for (int of_row = 0; of_row < kUnits; of_row += kThreadsOfRow) {
      const int unit = of_row + thread % kThreadsOfRow;
      const bool valid = first + row < shape.tokens && unit * 8 < shape.head_dim;
      const bool in_tile =
          (kRows % kRowStep == 0 || row < kRows) && (kUnits % kThreadsOfRow == 0 || unit < kUnits);
      if (in_tile) {
        CopyAsync(to.At(row * (kDim + 8) + unit * 8), valid ? from_row + unit * 8 : from.at, valid);
      }
    }
  }
}

// ---- fragments ----------------------------------------------------------------------------------

// A = tile[row .. row + 16, column .. column + 16).
template <int kDim, typename Tile>
__device__ inline FragmentA LoadA(Tile& tile, int row, int column) {
  FragmentA a;
  LoadMatrix<4>(a.r, tile.At((row + Lane() % 16) * (kDim + 8) + column + Lane() / 16 * 8));
  return a;
}

// Two neighbouring B, 16 columns in all.
struct FragmentsB {
  FragmentB left, right;
};

// B = the transpose of tile[row .. row + 16, column .. column + 16): rows of the tile are columns
// of B.
template <int kDim, typename Tile>
__device__ inline FragmentsB LoadTransposedB(Tile& tile, int row, int column) {
  uint32_t r[4];
  const int of_lane = (row + Lane() / 16 * 8 + Lane() % 8) * (kDim + 8) + Lane() / 8 % 2 * 8;
  LoadMatrix<4>(r, tile.At(of_lane + column));
  return {{{r[0], r[1]}}, {{r[2], r[3]}}};
}

// B = tile[row .. row + 16, column .. column + 16).
template <int kDim, typename Tile>
__device__ inline FragmentsB LoadB(Tile& tile, int row, int column) {
  uint32_t r[4];
  LoadMatrix<4, true>(r, tile.At((row + Lane() % 16) * (kDim + 8) + column + Lane() / 16 * 8));
  return {{{r[0], r[1]}}, {{r[2], r[3]}}};
}

// C of two neighbouring products (16 columns), rounded to bf16, as the A of the next product.
__device__ inline FragmentA RoundedToA(const FragmentC& left, const FragmentC& right) {
  return {{PackBf16(left.v[0], left.v[1]), PackBf16(left.v[2], left.v[3]),
           PackBf16(right.v[0], right.v[1]), PackBf16(right.v[2], right.v[3])}};
}

// c[kRowTiles][columns / 8] += A B for one step of the summed dimension: rows of `a` are kRowTiles
// * 16, `load(column)` gives B of 16 columns. Columns from `end` on are left out, 16 at a time.
template <int kRowTiles, int kColumns, typename LoadFragments>
__device__ inline void MmaRow(FragmentC (&c)[kRowTiles][kColumns / 8],
                              const FragmentA (&a)[kRowTiles], LoadFragments load,
                              int end = kColumns) {
#pragma unroll
  for (int column = 0; column < kColumns; column += 16) {
    if (column >= end) break;
    const FragmentsB b = load(column);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      MmaBf16(c[m][column / 8], a[m], b.left);
      MmaBf16(c[m][column / 8 + 1], a[m], b.right);
    }
  }
}

// Row of the warp's rows, and column, of element `e` of fragment C (m, n).
__device__ inline int RowOfC(int m, int half) { return m * kMmaRows + half * 8 + Lane() / 4; }
__device__ inline int ColumnOfC(int n) { return n * 8 + Lane() % 4 * 2; }

// Rows [row, row + 16 kRowTiles) of the tile = c, each row times factor[m][half], rounded.
template <int kRowTiles, int kDim, typename Tile>
__device__ inline void StoreC(const FragmentC (&c)[kRowTiles][kDim / 8],
                              const float (&factor)[kRowTiles][2], int row, Tile& tile) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float by = factor[m][half];
        Vec<Bf16, 2> pair;
        FromFloat(c[m][n].v[2 * half] * by, pair[0]);
        FromFloat(c[m][n].v[2 * half + 1] * by, pair[1]);
        tile.Store((row + RowOfC(m, half)) * (kDim + 8) + ColumnOfC(n), pair);
      }
    }
  }
}

// Writes rows [first, first + kRows) of a tile back, 16 bytes at a time. All threads of the block.
template <int kRows, int kDim>
__device__ inline void WriteTile(const AttentionTile<kRows, kDim>& tile, const HeadRows<Bf16>& to,
                                 int first, const AttentionShape& shape) {
  constexpr int kUnits = kDim / 8;
  for (int unit = static_cast<int>(threadIdx.x); unit < kRows * kUnits; unit += kAttentionThreads) {
    const int row = unit / kUnits, column = unit % kUnits * 8;
    if (first + row < shape.tokens && column < shape.head_dim) {
      StoreVec<8>(to.Row(first + row) + column, tile.template Load<8>(row * (kDim + 8) + column));
    }
  }
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_ATTENTION_TILE_H_
