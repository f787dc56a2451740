// How gradients and parameters are cut into work for blocks, so that one launch covers every tensor
// of a model: a table of tensors, and a table of items (tensor, cell), one block each. Host and
// device code.
//
// Tensors that are not factored are cut into runs of kRunElements. Factored ones
// (kernels/factored_shape.h: [outer, a, mid, b, inner]) are cut into cells of kTileRows rows (along
// a) and a few *pieces*. A piece is at most kPieceColumns neighbours along b of one (mid, inner);
// all of a piece adds to the same row sum. One piece is one group of lanes, of as many lanes as
// four elements each need; short pieces share a warp:
//
//   [1664, 8192]       MLP        64 pieces of 128 a row, a warp each
//   [1664, 16, 104]    query      16 pieces of 104 a row, a warp each (26 of 32 lanes work)
//   [384, 6, 64]       query      6 pieces of 64 a row, two a warp
//   [16, 104, 1664]    out        13 pieces of 128 a row
//
// The eight warps of a block take the same columns and 16 rows each.
//
//   variant   chosen when                     a lane's four elements are
//   vector    inner == 1 and b % 4 == 0       neighbours: one access of 16 bytes (8 of bf16)
//   strided   otherwise (29,593 classes)      as far apart as the group has lanes: the lanes of a
//                                             group still read neighbours, 4 bytes each

#ifndef KERNELS_CUDA_PARAMETER_GRID_H_
#define KERNELS_CUDA_PARAMETER_GRID_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/vec.h"
#include "kernels/cuda/dialect/warp.h"
#include "kernels/factored_shape.h"

namespace vitscale::cuda {

inline constexpr int kGridThreads = 256;
inline constexpr int kGridWarps = kGridThreads / kWarpLanes;
inline constexpr int kRowsPerWarp = 16;
inline constexpr int kTileRows = kGridWarps * kRowsPerWarp;
inline constexpr int kPieceColumns = 4 * kWarpLanes;
inline constexpr int kRunElements = 16 * 1024;  // as many as a cell of whole pieces has

// What one block does.
struct WorkItem {
  int32_t tensor = 0;
  int32_t cell = 0;
};

// The cells of one factored tensor, counted [outer, row_blocks, column_blocks].
struct ParameterGrid {
  int64_t a = 0, b = 0, inner = 1;
  int64_t row_length = 0;  // elements of one row: mid * b * inner
  int64_t runs = 0;        // per row: (mid, inner), each of b elements
  int64_t pieces = 0;      // per run
  int64_t row_blocks = 0;
  int64_t column_blocks = 0;
  int64_t units = 0;  // pieces of a row: runs * pieces
  int32_t lanes = 0;  // of a piece: 1, 2, 4, … 32
  bool vector = false;
};

inline ParameterGrid MakeParameterGrid(const FactoredShape& shape) {
  ParameterGrid grid;
  grid.a = shape.a;
  grid.b = shape.b;
  grid.inner = shape.inner;
  grid.row_length = shape.row_length();
  grid.runs = shape.mid * shape.inner;
  grid.pieces = (shape.b + kPieceColumns - 1) / kPieceColumns;
  grid.units = grid.runs * grid.pieces;
  grid.row_blocks = (shape.a + kTileRows - 1) / kTileRows;
  grid.lanes = 1;
  while (4 * grid.lanes < std::min<int64_t>(shape.b, kPieceColumns)) grid.lanes *= 2;
  const int64_t groups = kWarpLanes / grid.lanes;
  grid.column_blocks = (grid.units + groups - 1) / groups;
  grid.vector = shape.inner == 1 && shape.b % 4 == 0;
  return grid;
}

// An item for each of `cells` cells.
inline void AppendItems(int tensor, int64_t cells, std::vector<WorkItem>& items) {
  for (int64_t cell = 0; cell < cells; ++cell) {
    items.push_back({static_cast<int32_t>(tensor), static_cast<int32_t>(cell)});
  }
}
// Runs or cells of a tensor.
inline int64_t CellCount(const Shape& shape, const Factoring& factoring) {
  if (!factoring.factored) return (ElementCount(shape) + kRunElements - 1) / kRunElements;
  const FactoredShape factored = FactoredShapeOf(shape, factoring);
  const ParameterGrid grid = MakeParameterGrid(factored);
  return factored.outer * grid.row_blocks * grid.column_blocks;
}

// "16 tensors: 9 vector, 2 strided, 5 runs; 84 blocks".
template <typename Tensor>
std::string DescribeTensors(const std::vector<Tensor>& tensors, size_t items) {
  int64_t vector = 0, strided = 0;
  for (const Tensor& tensor : tensors) {
    vector += tensor.factored && tensor.grid.vector ? 1 : 0;
    strided += tensor.factored && !tensor.grid.vector ? 1 : 0;
  }
  const auto count = static_cast<int64_t>(tensors.size());
  return absl::StrCat(count, " tensors: ", vector, " vector, ", strided, " strided, ",
                      count - vector - strided, " runs; ", items, " blocks");
}

// Null for an empty table.
template <typename T>
const T* OnDevice(const std::vector<T>& table, CudaOpBuilder& builder) {
  if (table.empty()) return nullptr;
  return builder.Constant(table.data(), static_cast<int64_t>(table.size()));
}

// ---- device -------------------------------------------------------------------------------------

// Four elements of one lane, `stride` apart, of which the first `valid` exist.
struct FourElements {
  int64_t stride = 1;
  int valid = 4;
};

// What one warp does of a cell. Rows are counted over outer * a.
struct WarpCell {
  int64_t outer = 0;
  int64_t row_block = 0;  // of all: over outer * row_blocks
  int64_t row = 0;        // first of this warp
  int rows = 0;           // of this warp: 0 to kRowsPerWarp
  int64_t unit = 0;       // of this lane: which piece of the row
  int64_t run = 0;        // of this lane
  int64_t column = 0;     // of this lane's first element
  FourElements four;      // none are valid where the unit does not exist
};

// Where lane `lane` of warp `warp` stands.
__device__ inline WarpCell PlaceInCell(const ParameterGrid& grid, int64_t cell, int warp,
                                       int lane) {
  WarpCell at;
  at.row_block = cell / grid.column_blocks;
  at.outer = at.row_block / grid.row_blocks;
  const int64_t row = (at.row_block - at.outer * grid.row_blocks) * kTileRows + warp * kRowsPerWarp;
  at.row = at.outer * grid.a + row;
  const int64_t rows = grid.a - row;
  at.rows = rows < 0 ? 0 : rows > kRowsPerWarp ? kRowsPerWarp : static_cast<int>(rows);

  const int group = lane / grid.lanes, member = lane % grid.lanes;
  at.unit = cell % grid.column_blocks * (kWarpLanes / grid.lanes) + group;
  at.run = at.unit / grid.pieces;
  const int64_t first = at.unit % grid.pieces * kPieceColumns;  // along b
  int64_t left = at.run < grid.runs ? grid.b - first : 0;
  left = left > kPieceColumns ? kPieceColumns : left;
  const int64_t start = at.run / grid.inner * grid.b * grid.inner + at.run % grid.inner;
  const int mine = grid.vector ? 4 * member : member;
  at.column = start + (first + mine) * grid.inner;
  at.four.stride = grid.vector ? 1 : grid.lanes * grid.inner;
  const int64_t valid = grid.vector ? left - mine : (left - mine + grid.lanes - 1) / grid.lanes;
  at.four.valid = valid < 0 ? 0 : valid > 4 ? 4 : static_cast<int>(valid);
  return at;
}

// Elements that do not exist are zero. kVector: all four or none exist, the address is a multiple
// of their size.
template <bool kVector, typename T>
__device__ inline void LoadFour(const T* from, const FourElements& four, float (&to)[4]) {
  if constexpr (kVector) {
    const Vec<T, 4> loaded = four.valid > 0 ? LoadVec<4>(from) : Vec<T, 4>{};
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = ToFloat(loaded[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = i < four.valid ? ToFloat(from[i * four.stride]) : 0.0f;
  }
}
template <bool kVector, typename T>
__device__ inline void StoreFour(T* to, const FourElements& four, const float (&from)[4]) {
  if constexpr (kVector) {
    Vec<T, 4> stored;
#pragma unroll
    for (int i = 0; i < 4; ++i) FromFloat(from[i], stored[i]);
    if (four.valid > 0) StoreVec(to, stored);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < four.valid) FromFloat(from[i], to[i * four.stride]);
    }
  }
}

// The four elements from `at` of a run that ends at `end`: all by one access, or one by one at the
// end of the tensor.
__device__ inline FourElements FourOfRun(int64_t at, int64_t end) {
  const int64_t left = end - at;
  return {1, left < 0 ? 0 : left > 4 ? 4 : static_cast<int>(left)};
}
template <typename T>
__device__ inline void LoadFourOfRun(const T* from, const FourElements& four, float (&to)[4]) {
  four.valid == 4 ? LoadFour<true>(from, four, to) : LoadFour<false>(from, four, to);
}
template <typename T>
__device__ inline void StoreFourOfRun(T* to, const FourElements& four, const float (&from)[4]) {
  four.valid == 4 ? StoreFour<true>(to, four, from) : StoreFour<false>(to, four, from);
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_PARAMETER_GRID_H_
