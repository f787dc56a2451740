// Ordered sums down columns: gradients of biases, mean pooling, and the second stage of every sum
// over rows. Same bits from run to run.

#ifndef KERNELS_CUDA_COLUMN_SUM_H_
#define KERNELS_CUDA_COLUMN_SUM_H_

#include <cstdint>

#include "kernels/cuda/cuda_op.h"

namespace vitscale::cuda {

// Up to three f32 vectors that lie side by side as columns; a null one takes columns but is not
// written.
struct ColumnParts {
  static constexpr int kMax = 3;
  float* at[kMax] = {};
  int64_t columns[kMax] = {};
};

// ---- sums of a whole tensor -------------------------------------------------------------------

// What LaunchColumnSum works on: made while a program is prepared.
struct ColumnSum {
  const void* x = nullptr;  // [rows, columns]
  DType x_dtype = DType::kF32;
  int64_t rows = 0, columns = 0, rows_per_tile = 0;
  float* shares = nullptr;  // [tiles, columns]
  ColumnParts sums;
  bool accumulate = false;
};
// `sums`: one to three f32 vectors with x.columns() elements in all, or one that leaves out the
// last columns (padding). Takes Scratch, from its start;
// what an op has there must have been used up before LaunchColumnSum.
ColumnSum PlanColumnSum(const TensorView& x, const WeightParts& sums, bool accumulate,
                        CudaOpBuilder& builder);
// sums[c] = (accumulate ? sums[c] : 0) + sum over all rows of x[row, c]. Two launches.
absl::Status LaunchColumnSum(const ColumnSum& sum, cudaStream_t stream);

// ---- the two stages -----------------------------------------------------------------------------

// y[tile, c] = scale * sum over the tile's rows of x[row, c], in f32; the last tile may be shorter.
// x and y are bf16 or f32 each.
struct TileSum {
  const void* x = nullptr;  // [rows, columns]
  DType x_dtype = DType::kF32;
  int64_t rows = 0, columns = 0, rows_per_tile = 0;
  float scale = 1.0f;
  void* y = nullptr;  // [tiles, columns]
  DType y_dtype = DType::kF32;
};
absl::Status LaunchTileSum(const TileSum& sum, cudaStream_t stream);

// sums[c] = (accumulate ? sums[c] : 0) + sum over s of shares[s, c], in f64 and rounded once.
// shares: [count, columns], columns those of the parts together.
absl::Status LaunchShareSum(const float* shares, int64_t count, const ColumnParts& sums,
                            bool accumulate, cudaStream_t stream);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_COLUMN_SUM_H_
