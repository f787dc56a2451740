// LinearGradWeight: grad_weight = x^T grad_y and grad_bias = column sums of grad_y, over all rows.
//
// x and grad_y are taken kRowBlock rows at a time: both are interleaved by pairs of rows into this
// thread's scratch (tile.h), which is all the transposing that is needed, and multiplied while they
// are in cache. grad_weight holds the running sums. An item is 64 columns of one part of
// grad_weight; every element sums its rows in the same order whichever thread owns it.

#include <algorithm>
#include <vector>

#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/tile.h"

namespace vitscale::cpu {
namespace {

constexpr int64_t kRowBlock =
    256;  // rows: a column block of 64 is then 32 KiB of bf16 pairs, the size of an L1
constexpr int64_t kInBlock = 256;  // columns of x interleaved at a time
constexpr int64_t kColumnsPerItem = 64;
constexpr int64_t kItemsPerSweep = 8;  // columns of grad_y packed at a time: 512

// A run of columns of one part.
struct Columns {
  float* grad_weight;  // first column
  float* grad_bias;    // or null
  int64_t stride;      // of grad_weight
  int64_t y_column;    // in grad_y
  int64_t count;
};

// A row-major operand that may have to be widened to f32 first.
struct Operand {
  const std::byte* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::kF32;
  bool widen = false;
};

class LinearGradWeightOp : public CpuOp {
 public:
  void Init(const LinearGradWeightArgs& args, CpuOpBuilder& builder) {
    rows_ = args.x.rows();
    in_ = args.x.columns();
    accumulate_ = args.accumulate;
    const bool bf16 = args.x.dtype == DType::kBf16 && !args.full_precision;
    tile_ = &TileKernelsFor(builder.isa(), bf16);
    elementwise_ = &ElementwiseKernelsFor(builder.isa());
    x_ = Bind(args.x, bf16, builder);
    grad_y_ = Bind(args.grad_y, bf16, builder);
    AddItems(args, builder);
    const int64_t units = tile_->Units(kRowBlock);
    b_offset_ = AlignUp(units * tile_->PaddedColumns(std::min(in_, kInBlock)) * 4);
    ones_offset_ = b_offset_ + units * SweepColumns() * 4;
    wide_offset_ = AlignUp(ones_offset_ + units * 4);
    builder.RequestScratch(wide_offset_ + kRowBlock * std::max(kInBlock, SweepColumns()) * 4);
  }

  int64_t items(int /*phase*/) const override { return static_cast<int64_t>(items_.size()); }
  bool independent() const override { return true; }
  int64_t item_cost() const override { return rows_ * in_; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t item = begin; item < end; item += kItemsPerSweep) {
      Sweep(context.scratch, Merge(item, std::min(end, item + kItemsPerSweep)));
    }
  }

 private:
  static Operand Bind(const TensorView& view, bool bf16, CpuOpBuilder& builder) {
    return {builder.Memory<const std::byte>(view), view.columns(), view.dtype,
            view.dtype == DType::kBf16 && !bf16};
  }
  int64_t SweepColumns() const {  // each run is padded to whole vectors
    return kItemsPerSweep * kColumnsPerItem;
  }
  void AddItems(const LinearGradWeightArgs& args, CpuOpBuilder& builder) {
    int64_t y_column = 0;
    for (size_t i = 0; i < args.grad_weight.size(); ++i) {
      auto* weight = builder.Memory<float>(args.grad_weight[i]);
      float* bias = args.grad_bias.empty() ? nullptr : builder.Memory<float>(args.grad_bias[i]);
      const int64_t width = args.grad_weight[i].shape[1];
      for (int64_t c = 0; c < width; c += kColumnsPerItem) {
        items_.push_back({weight + c, bias == nullptr ? nullptr : bias + c, width, y_column + c,
                          std::min(kColumnsPerItem, width - c)});
      }
      y_column += width;
    }
  }
  // Items that lie side by side in one part become one run.
  std::vector<Columns> Merge(int64_t begin, int64_t end) const {
    std::vector<Columns> runs;
    for (int64_t i = begin; i < end; ++i) {
      const Columns& item = items_[i];
      if (!runs.empty() && runs.back().grad_weight + runs.back().count == item.grad_weight &&
          runs.back().y_column + runs.back().count == item.y_column &&
          runs.back().stride == item.stride) {
        runs.back().count += item.count;
      } else {
        runs.push_back(item);
      }
    }
    return runs;
  }

  void Sweep(std::byte* scratch, const std::vector<Columns>& runs) const {
    for (int64_t row = 0; row < rows_; row += kRowBlock) {
      const int64_t rows = std::min(kRowBlock, rows_ - row);
      PackRuns(scratch, runs, row, rows);
      for (int64_t in = 0; in < in_; in += kInBlock) {
        const int64_t width = std::min(kInBlock, in_ - in);
        const void* x = Rows(x_, row, rows, in, width, scratch);
        tile_->interleave_rows(x, stride_of(x_, width), rows, width, scratch);
        MultiplyRuns(scratch, runs, row, rows, in, width);
      }
    }
  }

  int64_t stride_of(const Operand& operand, int64_t width) const {
    return operand.widen ? width : operand.stride;
  }
  // Rows [row, row + rows) and columns [column, column + width) of an operand, widened to scratch
  // if need be.
  const void* Rows(const Operand& operand, int64_t row, int64_t rows, int64_t column, int64_t width,
                   std::byte* scratch) const {
    const std::byte* from =
        operand.data + (row * operand.stride + column) * DTypeBytes(operand.dtype);
    if (!operand.widen) return from;
    auto* wide = reinterpret_cast<float*>(scratch + wide_offset_);
    for (int64_t r = 0; r < rows; ++r) {
      elementwise_->to_f32(reinterpret_cast<const Bf16*>(from) + r * operand.stride,
                           wide + r * width, width);
    }
    return wide;
  }

  void PackRuns(std::byte* scratch, const std::vector<Columns>& runs, int64_t row,
                int64_t rows) const {
    std::byte* b = scratch + b_offset_;
    for (const Columns& run : runs) {
      const void* y = Rows(grad_y_, row, rows, run.y_column, run.count, scratch);
      tile_->pack_rows(y, stride_of(grad_y_, run.count), rows, run.count, b);
      b += tile_->PackedUnits(run.count, rows) * 4;
    }
  }

  void MultiplyRuns(std::byte* scratch, const std::vector<Columns>& runs, int64_t row, int64_t rows,
                    int64_t in, int64_t width) const {
    TileMatmul m;
    m.k = tile_->Units(rows);
    m.accumulate = accumulate_ || row > 0;
    const std::byte* b = scratch + b_offset_;
    for (const Columns& run : runs) {
      m.columns = run.count;
      m.b = b;
      b += tile_->PackedUnits(run.count, rows) * 4;
      m.rows = width;
      m.a = scratch;
      m.a_interleaved = true;
      m.a_stride = tile_->PaddedColumns(width);
      m.c = run.grad_weight + in * run.stride;
      m.c_stride = run.stride;
      tile_->multiply(m);
      if (run.grad_bias != nullptr && in == 0) SumColumns(scratch, run, m);
    }
  }

  // grad_bias is one more row of the product, with ones for x.
  void SumColumns(std::byte* scratch, const Columns& run, TileMatmul m) const {
    void* ones = scratch + ones_offset_;
    if (tile_->units_per_lane == 2) {
      std::fill_n(static_cast<uint32_t*>(ones), m.k, 0x3f803f80u);  // two bf16 ones
    } else {
      std::fill_n(static_cast<float*>(ones), m.k, 1.0f);
    }
    m.rows = 1;
    m.a = ones;
    m.a_interleaved = false;
    m.a_stride = m.k;
    m.c = run.grad_bias;
    tile_->multiply(m);
  }

  int64_t rows_ = 0, in_ = 0;
  bool accumulate_ = false;
  const TileKernels* tile_ = nullptr;
  const ElementwiseKernels* elementwise_ = nullptr;
  Operand x_, grad_y_;
  std::vector<Columns> items_;
  int64_t b_offset_ = 0, ones_offset_ = 0,
          wide_offset_ = 0;  // scratch: x units | grad_y units | ones | widened
};

}  // namespace

CpuOpOr MakeCpuOp(const LinearGradWeightArgs& args, CpuOpBuilder& builder) {
  auto op = std::make_unique<LinearGradWeightOp>();
  op->Init(args, builder);
  return op;
}

}  // namespace vitscale::cpu
