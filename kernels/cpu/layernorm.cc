// LayerNorm, ResidualLayerNorm and their backward on the CPU. Contract: kernels/ops.h; maths:
// layernorm_simd.cc.
//
// grad_gamma and grad_beta are summed in two stages: one slot per item (an image of a panel group,
// or a tile of rows), then all slots in index order.

#include "kernels/cpu/layernorm.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/share_sum.h"

VITSCALE_SIMD_TABLE(LayerNormKernels, kLayerNormKernels, LayerNormKernelsFor)

namespace vitscale::cpu {
namespace {

constexpr int64_t kColumnsPerTile = 64;

int TypeIndex(const TensorView& view) {
  if (!view.present()) return static_cast<int>(RowType::kNone);
  return static_cast<int>(view.dtype == DType::kBf16 ? RowType::kBf16 : RowType::kF32);
}

class LayerNormOp : public CpuOp {
 public:
  LayerNormOp(LayerNormRows rows, LayerNormKernels::Forward forward, RowTiling tiling)
      : rows_(rows), forward_(forward), tiling_(tiling) {}
  int64_t items(int phase) const override { return tiling_.items; }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    forward_(rows_, tiling_.RowBegin(begin), tiling_.RowEnd(end - 1));
  }

 private:
  LayerNormRows rows_;
  LayerNormKernels::Forward forward_;
  RowTiling tiling_;
};

class LayerNormGradOp : public CpuOp {
 public:
  LayerNormGradOp(const LayerNormGradArgs& args, CpuOpBuilder& builder)
      : tiling_(builder.TileRows(args.x.rows())),
        backward_(
            LayerNormKernelsFor(builder.isa())
                .backward[TypeIndex(args.x)][TypeIndex(args.grad_y)][TypeIndex(args.grad_x_cast)]),
        again_(LayerNormKernelsFor(builder.isa()).again[TypeIndex(args.x)][TypeIndex(args.y)]),
        sum_(ShareSumKernelsFor(builder.isa()).sum),
        grad_gamma_(builder.Memory<float>(args.grad_gamma)),
        grad_beta_(builder.Memory<float>(args.grad_beta)),
        accumulate_(args.accumulate) {
    rows_.grad_y = builder.Memory<const void>(args.grad_y);
    rows_.x = builder.Memory<const void>(args.x);
    rows_.mean = builder.Memory<const float>(args.mean);
    rows_.inv_std = builder.Memory<const float>(args.inv_std);
    rows_.gamma = builder.Memory<const float>(args.gamma);
    rows_.grad_residual = builder.Memory<const float>(args.grad_residual);
    rows_.grad_x = builder.Memory<float>(args.grad_x);
    rows_.grad_x_cast = builder.Memory<void>(args.grad_x_cast);
    rows_.beta = builder.Memory<const float>(args.beta);
    rows_.y = builder.Memory<void>(args.y);
    rows_.width = args.x.columns();
    shares_ = builder.Reserve<float>(tiling_.items * 2 * rows_.width);
  }
  int phases() const override { return 2; }
  int64_t items(int phase) const override {
    return phase == 0 ? tiling_.items : (rows_.width + kColumnsPerTile - 1) / kColumnsPerTile;
  }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    for (int64_t item = begin; item < end; ++item) {
      if (phase == 0) {
        backward_(rows_, tiling_.RowBegin(item), tiling_.RowEnd(item),
                  shares_ + item * 2 * rows_.width);
        if (again_ != nullptr) again_(rows_, tiling_.RowBegin(item), tiling_.RowEnd(item));
      } else {
        SumColumns(item * kColumnsPerTile);
      }
    }
  }

 private:
  void SumColumns(int64_t first) {
    const int64_t width = rows_.width;
    const int64_t columns = std::min(kColumnsPerTile, width - first);
    const float* gamma_shares = shares_ + first;
    sum_(gamma_shares, tiling_.items, 2 * width, columns, accumulate_, grad_gamma_ + first);
    sum_(gamma_shares + width, tiling_.items, 2 * width, columns, accumulate_, grad_beta_ + first);
  }

  LayerNormGradRows rows_;
  RowTiling tiling_;
  LayerNormKernels::Backward backward_;
  void (*again_)(const LayerNormGradRows& rows, int64_t begin, int64_t end);  // null without y
  decltype(ShareSumKernels::sum) sum_;
  float* grad_gamma_;
  float* grad_beta_;
  float* shares_;  // [items, 2, width]
  bool accumulate_;
};

// The operands that LayerNorm and ResidualLayerNorm have in common.
template <typename Args>
LayerNormRows CommonRows(const Args& args, CpuOpBuilder& builder) {
  LayerNormRows rows;
  rows.x = builder.Memory<const void>(args.x);
  rows.gamma = builder.Memory<const float>(args.gamma);
  rows.beta = builder.Memory<const float>(args.beta);
  rows.y = builder.Memory<void>(args.y);
  rows.mean = builder.Memory<float>(args.mean);
  rows.inv_std = builder.Memory<float>(args.inv_std);
  rows.width = args.x.columns();
  rows.epsilon = args.epsilon;
  return rows;
}

}  // namespace

CpuOpOr MakeCpuOp(const LayerNormArgs& args, CpuOpBuilder& builder) {
  const auto& forward = LayerNormKernelsFor(builder.isa()).forward;
  return std::make_unique<LayerNormOp>(
      CommonRows(args, builder),
      forward[TypeIndex(args.x)][static_cast<int>(RowType::kNone)][TypeIndex(args.y)],
      builder.TileRows(args.x.rows()));
}

CpuOpOr MakeCpuOp(const ResidualLayerNormArgs& args, CpuOpBuilder& builder) {
  LayerNormRows rows = CommonRows(args, builder);
  rows.delta = builder.Memory<const void>(args.delta);
  rows.sum = builder.Memory<void>(args.sum);
  const auto& forward = LayerNormKernelsFor(builder.isa()).forward;
  return std::make_unique<LayerNormOp>(
      rows, forward[TypeIndex(args.x)][TypeIndex(args.delta)][TypeIndex(args.y)],
      builder.TileRows(args.x.rows()));
}

CpuOpOr MakeCpuOp(const LayerNormGradArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<LayerNormGradOp>(args, builder);
}

}  // namespace vitscale::cpu
