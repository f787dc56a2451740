// MeanPool, SelectToken, Tanh and their backward passes: an image (or a tile of rows) per item.

#include "kernels/cpu/pool.h"

#include <cstring>
#include <memory>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/elementwise.h"

VITSCALE_SIMD_TABLE(PoolKernels, kPoolKernels, PoolKernelsFor)

namespace vitscale::cpu {
namespace {

// x or grad_x [batch * tokens, width] beside y or grad_y [batch, width].
template <typename X, typename Y>
struct Pooled {
  int64_t batch, tokens, width;
  AnyMatrix<X> x;
  AnyMatrix<Y> y;
};
template <typename X, typename Y>
Pooled<X, Y> Bind(int64_t batch, int64_t tokens, const TensorView& x, const TensorView& y,
                  CpuOpBuilder& builder) {
  const int64_t width = y.columns();
  builder.RequestScratch(width * 4);
  return {batch,
          tokens,
          width,
          {builder.Memory<X>(x), x.dtype, width},
          {builder.Memory<Y>(y), y.dtype, width}};
}
using PooledForward = Pooled<const std::byte, std::byte>;
using PooledBackward = Pooled<std::byte, const std::byte>;

// `image(context, i)` for every image.
template <typename Image>
class PerImageOp : public CpuOp {
 public:
  PerImageOp(int64_t batch, Image image) : batch_(batch), image_(std::move(image)) {}
  int64_t items(int /*phase*/) const override { return batch_; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t i = begin; i < end; ++i) image_(context, i);
  }

 private:
  int64_t batch_;
  Image image_;
};
template <typename Image>
CpuOpOr MakePerImage(int64_t batch, Image image) {
  return std::make_unique<PerImageOp<Image>>(batch, std::move(image));
}

// `rows(begin, end)` for tiles of rows.
template <typename Rows>
class PerRowsOp : public CpuOp {
 public:
  PerRowsOp(RowTiling tiling, Rows rows) : tiling_(tiling), rows_(std::move(rows)) {}
  int64_t items(int /*phase*/) const override { return tiling_.items; }
  void Run(const RunContext& /*context*/, int /*phase*/, int64_t begin, int64_t end) override {
    rows_(tiling_.RowBegin(begin), tiling_.RowEnd(end - 1));
  }

 private:
  RowTiling tiling_;
  Rows rows_;
};
template <typename Rows>
CpuOpOr MakePerRows(RowTiling tiling, Rows rows) {
  return std::make_unique<PerRowsOp<Rows>>(tiling, std::move(rows));
}

}  // namespace

CpuOpOr MakeCpuOp(const MeanPoolArgs& args, CpuOpBuilder& builder) {
  const PooledForward p =
      Bind<const std::byte, std::byte>(args.batch, args.tokens, args.x, args.y, builder);
  const auto* pool = &PoolKernelsFor(builder.isa());
  const auto* elementwise = &ElementwiseKernelsFor(builder.isa());
  return MakePerImage(p.batch, [=](const RunContext& context, int64_t image) {
    auto* mean = reinterpret_cast<float*>(context.scratch);
    const float scale = 1.0f / static_cast<float>(p.tokens);
    const std::byte* x = p.x.Row(image * p.tokens);
    if (p.x.dtype == DType::kBf16) {
      pool->sum_rows_bf16(reinterpret_cast<const Bf16*>(x), p.tokens, p.width, scale, mean);
    } else {
      pool->sum_rows_f32(reinterpret_cast<const float*>(x), p.tokens, p.width, scale, mean);
    }
    Convert(*elementwise, DType::kF32, mean, p.y.dtype, p.y.Row(image), p.width);
  });
}

CpuOpOr MakeCpuOp(const MeanPoolGradArgs& args, CpuOpBuilder& builder) {
  const PooledBackward p =
      Bind<std::byte, const std::byte>(args.batch, args.tokens, args.grad_x, args.grad_y, builder);
  const auto* pool = &PoolKernelsFor(builder.isa());
  const auto* elementwise = &ElementwiseKernelsFor(builder.isa());
  return MakePerImage(p.batch, [=](const RunContext& context, int64_t image) {
    auto* share = reinterpret_cast<float*>(context.scratch);
    Convert(*elementwise, p.y.dtype, p.y.Row(image), DType::kF32, share, p.width);
    pool->scale(share, 1.0f / static_cast<float>(p.tokens), share, p.width);
    for (int64_t t = 0; t < p.tokens; ++t) {
      Convert(*elementwise, DType::kF32, share, p.x.dtype, p.x.Row(image * p.tokens + t), p.width);
    }
  });
}

CpuOpOr MakeCpuOp(const SelectTokenArgs& args, CpuOpBuilder& builder) {
  const PooledForward p =
      Bind<const std::byte, std::byte>(args.batch, args.tokens, args.x, args.y, builder);
  const auto* elementwise = &ElementwiseKernelsFor(builder.isa());
  return MakePerImage(p.batch, [=, token = args.token](const RunContext&, int64_t image) {
    Convert(*elementwise, p.x.dtype, p.x.Row(image * p.tokens + token), p.y.dtype, p.y.Row(image),
            p.width);
  });
}

CpuOpOr MakeCpuOp(const SelectTokenGradArgs& args, CpuOpBuilder& builder) {
  const PooledBackward p =
      Bind<std::byte, const std::byte>(args.batch, args.tokens, args.grad_x, args.grad_y, builder);
  const auto* elementwise = &ElementwiseKernelsFor(builder.isa());
  return MakePerImage(p.batch, [=, token = args.token](const RunContext&, int64_t image) {
    std::byte* rows = p.x.Row(image * p.tokens);
    std::memset(rows, 0, p.tokens * p.width * DTypeBytes(p.x.dtype));
    Convert(*elementwise, p.y.dtype, p.y.Row(image), p.x.dtype, p.x.Row(image * p.tokens + token),
            p.width);
  });
}

CpuOpOr MakeCpuOp(const TanhArgs& args, CpuOpBuilder& builder) {
  const auto* pool = &PoolKernelsFor(builder.isa());
  const bool bf16 = args.x.dtype == DType::kBf16;
  return MakePerRows(
      builder.TileRows(args.x.rows()),
      [pool, bf16, width = args.x.columns(), x = builder.Memory<const void>(args.x),
       y = builder.Memory<void>(args.y)](int64_t begin, int64_t end) {
        const int64_t at = begin * width, count = (end - begin) * width;
        if (bf16) {
          pool->tanh_bf16(static_cast<const Bf16*>(x) + at, static_cast<Bf16*>(y) + at, count);
        } else {
          pool->tanh_f32(static_cast<const float*>(x) + at, static_cast<float*>(y) + at, count);
        }
      });
}

CpuOpOr MakeCpuOp(const TanhGradArgs& args, CpuOpBuilder& builder) {
  const auto* pool = &PoolKernelsFor(builder.isa());
  const bool bf16 = args.y.dtype == DType::kBf16;
  return MakePerRows(
      builder.TileRows(args.y.rows()),
      [pool, bf16, width = args.y.columns(), grad_y = builder.Memory<const void>(args.grad_y),
       y = builder.Memory<const void>(args.y),
       grad_x = builder.Memory<void>(args.grad_x)](int64_t begin, int64_t end) {
        const int64_t at = begin * width, count = (end - begin) * width;
        if (bf16) {
          pool->tanh_grad_bf16(static_cast<const Bf16*>(grad_y) + at,
                               static_cast<const Bf16*>(y) + at, static_cast<Bf16*>(grad_x) + at,
                               count);
        } else {
          pool->tanh_grad_f32(static_cast<const float*>(grad_y) + at,
                              static_cast<const float*>(y) + at, static_cast<float*>(grad_x) + at,
                              count);
        }
      });
}

}  // namespace vitscale::cpu
