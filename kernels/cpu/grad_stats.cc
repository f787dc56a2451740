// GradStats on the CPU: every gradient is read once. Contract: GradStatsArgs in kernels/ops.h.
//
// Phase 0: tiles. A factored tensor is cut into a grid of row blocks and column blocks
// (factored_shape.h); a tile writes the sums of its rows and columns and its share of the square
// sum into slots. Phase 1: item 0 adds up the square sum, every other item the rows and columns of
// one tensor, all in index order.

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cpu/cpu_op.h"
#include "kernels/factored_shape.h"
#include "kernels/cpu/optimizer.h"
#include "kernels/cpu/share_sum.h"

namespace vitscale::cpu {
namespace {

// Column sums of a tile are f32: 8 additions of four rows each lose half an ulp on average.
constexpr int64_t kTileRows = 32;
constexpr int64_t kTileColumns = 2048;           // at most, and at least one value of b
constexpr int64_t kElementsPerTile = 64 * 1024;  // of tensors that are not factored

// The grid of one factored tensor. Columns are cut at segments, or a segment into pieces where it
// is long.
struct Grid {
  const float* gradient = nullptr;
  FactoredShape shape;
  // Of a column block; the last one of a row, or of a segment cut into pieces, may have fewer.
  int64_t columns = 0;
  int64_t piece = 0;  // longest run of one segment in a block
  int64_t row_blocks = 0;
  int64_t blocks_per_segment = 0;  // 1 when segments are whole
  int64_t column_blocks = 0;       // per row
  float* column_slots = nullptr;   // [outer, row_blocks, row_length]
  float* row_slots = nullptr;      // [outer, a, column sums of a row: segments * pieces * inner]
  float* sums = nullptr;           // where the result goes, laid out like the second moment

  int64_t tiles() const { return shape.outer * row_blocks * column_blocks; }
  int64_t row_slots_per_row() const { return shape.mid * blocks_per_segment * shape.inner; }
};

Grid MakeGrid(const FactoredShape& shape) {
  Grid grid;
  grid.shape = shape;
  grid.row_blocks = (shape.a + kTileRows - 1) / kTileRows;
  const int64_t segment = shape.segment();
  if (segment <= kTileColumns) {
    grid.piece = segment;
    grid.blocks_per_segment = 1;
    grid.columns = std::min(shape.mid, kTileColumns / segment) * segment;
    grid.column_blocks = (shape.row_length() + grid.columns - 1) / grid.columns;
  } else {
    grid.piece = std::max<int64_t>(1, kTileColumns / shape.inner) * shape.inner;
    grid.blocks_per_segment = (segment + grid.piece - 1) / grid.piece;
    grid.columns = grid.piece;
    grid.column_blocks = shape.mid * grid.blocks_per_segment;
  }
  return grid;
}

// A run of elements of a tensor that is not factored, or one cell of a grid.
struct Tile {
  int grid = -1;
  int64_t cell = 0;
  const float* gradient = nullptr;
  int64_t count = 0;
};

class GradStatsOp : public CpuOp {
 public:
  GradStatsOp(const GradStatsArgs& args, CpuOpBuilder& builder)
      : kernels_(OptimizerKernelsFor(builder.isa())),
        sum_shares_(ShareSumKernelsFor(builder.isa()).sum),
        square_sum_(builder.Memory<double>(args.gradient_square_sum)) {
    float* sums = builder.Memory<float>(args.factored_sums);
    for (const OptimizedTensor& tensor : args.tensors) {
      const float* gradient = builder.Memory<const float>(tensor.gradient);
      if (!tensor.factoring.factored) {
        AddRuns(gradient, tensor.gradient.elements());
        continue;
      }
      AddGrid(gradient, FactoredShapeOf(tensor.gradient.shape, tensor.factoring), sums, builder);
      sums += grids_.back().shape.moment_count();
    }
    tile_square_sums_ = builder.Reserve<double>(static_cast<int64_t>(tiles_.size()));
  }

  int phases() const override { return 2; }
  int64_t items(int phase) const override {
    return phase == 0 ? static_cast<int64_t>(tiles_.size())
                      : 1 + static_cast<int64_t>(grids_.size());
  }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    const float scale = context.scalars->gradient_scale;
    for (int64_t item = begin; item < end; ++item) {
      if (phase == 0) {
        const Tile& tile = tiles_[item];
        tile_square_sums_[item] = tile.grid < 0
                                      ? kernels_.square_sum(tile.gradient, scale, tile.count)
                                      : RunCell(grids_[tile.grid], tile.cell, scale);
      } else if (item == 0) {
        SumSquares();
      } else {
        SumColumns(grids_[item - 1]);
        SumRows(grids_[item - 1]);
      }
    }
  }

 private:
  void AddRuns(const float* gradient, int64_t count) {
    for (int64_t at = 0; at < count; at += kElementsPerTile) {
      tiles_.push_back({-1, 0, gradient + at, std::min(kElementsPerTile, count - at)});
    }
  }
  void AddGrid(const float* gradient, const FactoredShape& shape, float* sums,
               CpuOpBuilder& builder) {
    Grid grid = MakeGrid(shape);
    grid.gradient = gradient;
    grid.sums = sums;
    grid.column_slots = builder.Reserve<float>(shape.outer * grid.row_blocks * shape.row_length());
    grid.row_slots = builder.Reserve<float>(shape.outer * shape.a * grid.row_slots_per_row());
    for (int64_t cell = 0; cell < grid.tiles(); ++cell) {
      tiles_.push_back({static_cast<int>(grids_.size()), cell, nullptr, 0});
    }
    grids_.push_back(grid);
  }

  double RunCell(const Grid& grid, int64_t cell, float scale);
  void SumSquares();
  void SumColumns(const Grid& grid);
  void SumRows(const Grid& grid);

  const OptimizerKernels& kernels_;
  decltype(ShareSumKernels::sum) sum_shares_;
  double* square_sum_;
  std::vector<Grid> grids_;
  std::vector<Tile> tiles_;
  double* tile_square_sums_;
};

double GradStatsOp::RunCell(const Grid& grid, int64_t cell, float scale) {
  const FactoredShape& shape = grid.shape;
  const int64_t column_block = cell % grid.column_blocks;
  const int64_t row_block = cell / grid.column_blocks % grid.row_blocks;
  const int64_t outer = cell / (grid.column_blocks * grid.row_blocks);
  const int64_t row = row_block * kTileRows;
  const bool whole = grid.blocks_per_segment == 1;
  const int64_t segment_index = whole ? column_block * (grid.columns / shape.segment())
                                      : column_block / grid.blocks_per_segment;
  const int64_t piece = whole ? 0 : column_block % grid.blocks_per_segment;
  const int64_t column = segment_index * shape.segment() + piece * grid.piece;

  StatsTile tile;
  tile.gradient = grid.gradient + (outer * shape.a + row) * shape.row_length() + column;
  tile.scale = scale;
  tile.rows = std::min(kTileRows, shape.a - row);
  tile.row_stride = shape.row_length();
  tile.columns = whole ? std::min(grid.columns, shape.row_length() - column)
                       : std::min(grid.piece, shape.segment() - piece * grid.piece);
  tile.segment = whole ? shape.segment() : tile.columns;
  tile.inner = shape.inner;
  tile.column_sums =
      grid.column_slots + (outer * grid.row_blocks + row_block) * shape.row_length() + column;
  tile.row_sum_stride = grid.row_slots_per_row();
  tile.row_sums = grid.row_slots + (outer * shape.a + row) * tile.row_sum_stride +
                  (segment_index * grid.blocks_per_segment + piece) * shape.inner;
  return kernels_.factored_stats(tile);
}

void GradStatsOp::SumSquares() {
  double total = 0.0;
  for (size_t tile = 0; tile < tiles_.size(); ++tile) total += tile_square_sums_[tile];
  *square_sum_ = total;
}

void GradStatsOp::SumColumns(const Grid& grid) {
  const int64_t length = grid.shape.row_length();
  for (int64_t outer = 0; outer < grid.shape.outer; ++outer) {
    sum_shares_(grid.column_slots + outer * grid.row_blocks * length, grid.row_blocks, length,
                length, /*accumulate=*/false,
                grid.sums + grid.shape.column_sums_at() + outer * length);
  }
}

void GradStatsOp::SumRows(const Grid& grid) {
  const FactoredShape& shape = grid.shape;
  const float* slots = grid.row_slots;
  float* sums = grid.sums + shape.row_sums_at();
  for (int64_t row = 0; row < shape.outer * shape.a * shape.mid; ++row) {
    for (int64_t k = 0; k < shape.inner; ++k) {
      double sum = 0.0;
      for (int64_t piece = 0; piece < grid.blocks_per_segment; ++piece) {
        sum += slots[piece * shape.inner + k];
      }
      sums[k] = static_cast<float>(sum);
    }
    slots += grid.blocks_per_segment * shape.inner;
    sums += shape.inner;
  }
}

}  // namespace

CpuOpOr MakeCpuOp(const GradStatsArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<GradStatsOp>(args, builder);
}

}  // namespace vitscale::cpu
