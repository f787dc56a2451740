// GradStats on CUDA: every gradient of a model is read once, by one launch. Contract: GradStatsArgs
// in kernels/ops.h. Reference: kernels/cpu/grad_stats.cc. How tensors are cut: parameter_grid.h.
//
//   kernel      what                                             bytes per parameter
//   Tiles       squares; a slot per row and column of a cell     read 4, write 4 / 128 twice
//   AddSlots    adds up slots in index order, in f64             read 4 / 128 twice, write little
//
// About 4.13 bytes per parameter. Floor on an H100 (3.35 TB/s): S/16 (23.8 M parameters) 98 MB,
// 29 us; G/14 (1.88 G) 7.8 GB, 2.3 ms. Launches: 2, whatever the number of tensors.
//
// Roundings: a column of a cell is the f32 sum of 4 rows in a tree, four times, then f64 over the
// eight warps; a row of a piece is an f32 tree of 128 squares. A square that overflows f32 makes
// the sum infinite: such a gradient counts as not finite.

#include <memory>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/parameter_grid.h"

namespace vitscale::cuda {
namespace {

constexpr int kRowsAtOnce = 4;  // loads of a lane under way together: 4 of 16 bytes
constexpr int kTotalThreads = 1024;
constexpr int kWarpSumAddends = 64;  // sums of as many slots are a warp's, of fewer a thread's

struct StatsTensor {
  const float* gradient = nullptr;
  int64_t count = 0;
  bool factored = false;
  ParameterGrid grid;
  float* column_slots = nullptr;  // [outer, row_blocks, row_length]
  float* row_slots = nullptr;     // [outer, a, runs, pieces]
};

// Sums over the middle axis of slots [count / width, addends, width].
struct SlotSums {
  const float* slots = nullptr;
  float* sums = nullptr;  // [count]
  int64_t count = 0, width = 0, addends = 0;
  bool by_warps = false;  // a warp per sum, else a thread
};

struct TileShared {
  SharedArray<float, kGridWarps * kPieceColumns> columns;  // [warp, lane's columns]
  WarpSlots<double> slots;
};

// ---- tiles --------------------------------------------------------------------------------------

// This thread's part of the squares of a run.
__device__ double SquaresOfRun(const StatsTensor& tensor, int64_t run, float scale) {
  const int64_t begin = run * kRunElements;
  const int64_t end = begin + kRunElements < tensor.count ? begin + kRunElements : tensor.count;
  double sum = 0.0;
#pragma unroll 4
  for (int64_t at = begin + 4 * threadIdx.x; at < end; at += 4 * kGridThreads) {
    float g[4];
    LoadFourOfRun(tensor.gradient + at, FourOfRun(at, end), g);
#pragma unroll
    for (int i = 0; i < 4; ++i) g[i] *= scale;
    sum += (g[0] * g[0] + g[1] * g[1]) + (g[2] * g[2] + g[3] * g[3]);
  }
  return sum;
}

// Squares of kRowsAtOnce rows from `row` of the warp; rows that do not exist give zeros.
template <bool kVector>
__device__ void LoadSquares(const StatsTensor& tensor, const WarpCell& at, int row, float scale,
                            float (&squares)[kRowsAtOnce][4]) {
  const float* from = tensor.gradient + (at.row + row) * tensor.grid.row_length + at.column;
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r, from += tensor.grid.row_length) {
    FourElements four = at.four;
    if (row + r >= at.rows) four.valid = 0;
    LoadFour<kVector>(from, four, squares[r]);
  }
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float g = squares[r][i] * scale;
      squares[r][i] = g * g;
    }
  }
}

// Sums over the lanes of a piece, to its slot of each row.
__device__ void StoreRowSums(const StatsTensor& tensor, const WarpCell& at, int row,
                             const float (&squares)[kRowsAtOnce][4]) {
  const ParameterGrid& grid = tensor.grid;
  float sums[kRowsAtOnce];
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    sums[r] = (squares[r][0] + squares[r][1]) + (squares[r][2] + squares[r][3]);
  }
  for (int mask = grid.lanes / 2; mask > 0; mask /= 2) {
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) sums[r] += ShuffleXor(sums[r], mask);
  }
  if (Lane() % grid.lanes != 0 || at.unit >= grid.units) return;
  float* to = tensor.row_slots + (at.row + row) * grid.units + at.unit;
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r, to += grid.units) {
    if (row + r < at.rows) *to = sums[r];
  }
}

// A tree over the rows, so that a column sum has few roundings.
__device__ void AddRows(const float (&squares)[kRowsAtOnce][4], float (&sums)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float level[kRowsAtOnce];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) level[r] = squares[r][i];
#pragma unroll
    for (int n = kRowsAtOnce / 2; n > 0; n /= 2) {
#pragma unroll
      for (int r = 0; r < n; ++r) level[r] += level[r + n];
    }
    sums[i] += level[0];
  }
}

// This thread's part of the squares of a cell: the sum of one of its columns.
template <bool kVector>
__device__ double SquaresOfCell(const StatsTensor& tensor, int64_t cell, float scale,
                                TileShared& shared) {
  const WarpCell at = PlaceInCell(tensor.grid, cell, Warp(), Lane());
  float sums[4] = {};
  for (int row = 0; row < kRowsPerWarp; row += kRowsAtOnce) {
    float squares[kRowsAtOnce][4];
    LoadSquares<kVector>(tensor, at, row, scale, squares);
    StoreRowSums(tensor, at, row, squares);
    AddRows(squares, sums);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    shared.columns[Warp() * kPieceColumns + (kVector ? 4 * Lane() + i : kWarpLanes * i + Lane())] =
        sums[i];
  }
  BlockBarrier();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= kPieceColumns) return 0.0;
  const int lane = kVector ? thread / 4 : thread % kWarpLanes;
  const int element = kVector ? thread % 4 : thread / kWarpLanes;
  double sum = 0.0;
  for (int warp = 0; warp < kGridWarps; ++warp) {
    sum += static_cast<float>(shared.columns[warp * kPieceColumns + thread]);
  }
  const WarpCell column = PlaceInCell(tensor.grid, cell, 0, lane);
  if (element < column.four.valid) {
    tensor.column_slots[column.row_block * tensor.grid.row_length + column.column +
                        element * column.four.stride] = static_cast<float>(sum);
  }
  return sum;
}

__global__ void __launch_bounds__(kGridThreads)
    Tiles(const StatsTensor* tensors, const WorkItem* items, const StepScalars* scalars,
          double* square_slots) {
  TileShared& shared = SharedMemory<TileShared>();
  const WorkItem item = items[blockIdx.x];
  const StatsTensor tensor = tensors[item.tensor];
  const float scale = scalars->gradient_scale;
  double sum;
  if (!tensor.factored) {
    sum = SquaresOfRun(tensor, item.cell, scale);
  } else if (tensor.grid.vector) {
    sum = SquaresOfCell<true>(tensor, item.cell, scale, shared);
  } else {
    sum = SquaresOfCell<false>(tensor, item.cell, scale, shared);
  }
  sum = BlockSum(sum, shared.slots);
  if (threadIdx.x == 0) square_slots[blockIdx.x] = sum;
}

// ---- sums over slots ----------------------------------------------------------------------------

__device__ void AddByThreads(const SlotSums& part, int64_t chunk) {
  const int64_t i = chunk * kTotalThreads + threadIdx.x;
  if (i >= part.count) return;
  const float* from = part.slots + (i / part.width * part.addends) * part.width + i % part.width;
  double sum = 0.0;
#pragma unroll 8
  for (int64_t k = 0; k < part.addends; ++k) sum += from[k * part.width];
  part.sums[i] = static_cast<float>(sum);
}
__device__ void AddByWarps(const SlotSums& part, int64_t chunk) {
  const int64_t i = chunk * (kTotalThreads / kWarpLanes) + Warp();
  double sum = 0.0;
  if (i < part.count) {
    const float* from = part.slots + i * part.addends;
    for (int64_t k = Lane(); k < part.addends; k += kWarpLanes) sum += from[k];
  }
  sum = WarpSum(sum);
  if (Lane() == 0 && i < part.count) part.sums[i] = static_cast<float>(sum);
}

// Block 0 adds the squares of all tiles, block i + 1 does item i.
__global__ void __launch_bounds__(kTotalThreads)
    AddSlots(const double* square_slots, int64_t tiles, double* square_sum, const SlotSums* parts,
             const WorkItem* items) {
  if (blockIdx.x == 0) {
    double sum = 0.0;
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < tiles; i += kTotalThreads) sum += square_slots[i];
    sum = BlockSum(sum, SharedMemory<TileShared>().slots);
    if (threadIdx.x == 0) *square_sum = sum;
    return;
  }
  const WorkItem item = items[blockIdx.x - 1];
  const SlotSums part = parts[item.tensor];
  part.by_warps ? AddByWarps(part, item.cell) : AddByThreads(part, item.cell);
}

// ---- launcher -----------------------------------------------------------------------------------

// The tables of both launches. Slots are one stretch of workspace that every tensor takes from.
struct Tables {
  std::vector<StatsTensor> tensors;
  std::vector<WorkItem> tiles;
  std::vector<SlotSums> parts;
  std::vector<WorkItem> part_items;
};

int64_t ColumnSlots(const FactoredShape& shape, const ParameterGrid& grid) {
  return shape.outer * grid.row_blocks * grid.row_length;
}
int64_t RowSlots(const FactoredShape& shape, const ParameterGrid& grid) {
  return shape.outer * shape.a * grid.units;
}
int64_t SlotCount(const GradStatsArgs& args) {
  int64_t count = 0;
  for (const OptimizedTensor& tensor : args.tensors) {
    if (!tensor.factoring.factored) continue;
    const FactoredShape shape = FactoredShapeOf(tensor.gradient.shape, tensor.factoring);
    const ParameterGrid grid = MakeParameterGrid(shape);
    count += ColumnSlots(shape, grid) + RowSlots(shape, grid);
  }
  return count;
}
int64_t TileCount(const GradStatsArgs& args) {
  int64_t count = 0;
  for (const OptimizedTensor& tensor : args.tensors)
    count += CellCount(tensor.gradient.shape, tensor.factoring);
  return count;
}

void AddPart(SlotSums part, Tables& tables) {
  part.by_warps = part.width == 1 && part.addends >= kWarpSumAddends;
  const int64_t per_block = part.by_warps ? kTotalThreads / kWarpLanes : kTotalThreads;
  AppendItems(static_cast<int>(tables.parts.size()), (part.count + per_block - 1) / per_block,
              tables.part_items);
  tables.parts.push_back(part);
}

// Takes the slots of one factored tensor from `slots` and its place in the sums from `sums`.
void AddFactored(const FactoredShape& shape, float*& slots, float*& sums, StatsTensor& tensor,
                 Tables& tables) {
  tensor.factored = true;
  tensor.grid = MakeParameterGrid(shape);
  tensor.column_slots = slots;
  tensor.row_slots = slots + ColumnSlots(shape, tensor.grid);
  slots = tensor.row_slots + RowSlots(shape, tensor.grid);
  AddPart({tensor.column_slots, sums + shape.column_sums_at(), shape.column_sum_count(),
           tensor.grid.row_length, tensor.grid.row_blocks},
          tables);
  AddPart(
      {tensor.row_slots, sums + shape.row_sums_at(), shape.row_sum_count(), 1, tensor.grid.pieces},
      tables);
  sums += shape.moment_count();
}

Tables MakeTables(const GradStatsArgs& args, float* slots, CudaOpBuilder& builder) {
  Tables tables;
  float* sums = builder.Memory<float>(args.factored_sums);
  for (const OptimizedTensor& view : args.tensors) {
    StatsTensor tensor;
    tensor.gradient = builder.Memory<const float>(view.gradient);
    tensor.count = view.gradient.elements();
    if (view.factoring.factored) {
      AddFactored(FactoredShapeOf(view.gradient.shape, view.factoring), slots, sums, tensor,
                  tables);
    }
    AppendItems(static_cast<int>(tables.tensors.size()),
                CellCount(view.gradient.shape, view.factoring), tables.tiles);
    tables.tensors.push_back(tensor);
  }
  return tables;
}

}  // namespace

CudaOpOr MakeCudaOp(const GradStatsArgs& args, CudaOpBuilder& builder) {
  const int64_t tiles = TileCount(args);
  auto* square_slots = static_cast<double*>(
      builder.Scratch(tiles * sizeof(double) + SlotCount(args) * sizeof(float)));
  const Tables tables = MakeTables(args, reinterpret_cast<float*>(square_slots + tiles), builder);
  const auto* tensors = OnDevice(tables.tensors, builder);
  const auto* items = OnDevice(tables.tiles, builder);
  const auto* parts = OnDevice(tables.parts, builder);
  const auto* part_items = OnDevice(tables.part_items, builder);
  const auto sum_blocks = static_cast<unsigned>(1 + tables.part_items.size());
  auto* square_sum = builder.Memory<double>(args.gradient_square_sum);
  return MakeOp(DescribeTensors(tables.tensors, tables.tiles.size()),
                [=](const RunContext& context) -> absl::Status {
                  if (tiles > 0) {
                    VITSCALE_RETURN_IF_ERROR(Launch(
                        Tiles, static_cast<unsigned>(tiles), kGridThreads, sizeof(TileShared),
                        context.stream, tensors, items, context.scalars, square_slots));
                  }
                  return Launch(AddSlots, sum_blocks, kTotalThreads, sizeof(TileShared),
                                context.stream, square_slots, tiles, square_sum, parts, part_items);
                });
}

}  // namespace vitscale::cuda
