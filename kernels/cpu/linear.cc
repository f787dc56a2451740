// Linear and LinearGradInput: a packed matmul on each panel, then the epilogue on what is still in
// cache.

#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gelu.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_weights.h"

VITSCALE_SIMD_TABLE(LinearKernels, kLinearKernels, LinearKernelsFor)

namespace vitscale::cpu {
namespace {

// Rows cut into the pieces that one matmul call takes: panels of a group; outside a group pieces of
// a height that gives several threads something to do. Pieces never depend on the number of
// threads.
struct RowPieces {
  RowTiling tiling;
  int64_t items_per_piece = 1;

  int64_t rows_max() const { return std::min(tiling.rows, items_per_piece * tiling.rows_per_item); }
  std::vector<int64_t> heights() const {
    const int64_t last = tiling.rows % rows_max();
    return last == 0 ? std::vector<int64_t>{rows_max()} : std::vector<int64_t>{rows_max(), last};
  }
};

RowPieces PiecesOf(int64_t rows, const CpuOpBuilder& builder) {
  if (builder.batch() > 0) return {builder.TileRows(rows), builder.panel_items()};
  const int64_t height = std::clamp<int64_t>(AlignUp(rows, 64) / 8, 32, 384);
  return {{rows, (rows + height - 1) / height, height}, 1};
}

// Calls piece(row, rows) for the pieces of items [begin, end).
template <typename Piece>
void ForPieces(const RowPieces& pieces, int64_t begin, int64_t end, const Piece& piece) {
  for (int64_t item = begin; item < end; item += pieces.items_per_piece) {
    const int64_t last = std::min(end, item + pieces.items_per_piece) - 1;
    const int64_t row = pieces.tiling.RowBegin(item);
    piece(row, pieces.tiling.RowEnd(last) - row);
  }
}

std::byte* At(std::byte* base, int64_t elements, DType dtype) {
  return base + elements * DTypeBytes(dtype);
}

// x W (+ bias) on one piece: conversion of x where the matmul wants f32, bias parts side by side,
// the matmul.
class PieceMatmul {
 public:
  absl::Status Init(const TensorView& x, const WeightParts& weight, const WeightParts& bias,
                    bool transposed, bool full_precision, const TensorView& y,
                    const RowPieces& pieces, CpuOpBuilder& builder);

  int64_t scratch_bytes() const { return scratch_bytes_; }
  // x_row: the first row of the piece in memory. Writes y as f32 or bf16, as Init was told.
  void Multiply(const RunContext& context, const std::byte* x_row, int64_t rows, void* y) const;

 private:
  const float* Bias(std::byte* scratch) const;

  const ElementwiseKernels* elementwise_ = nullptr;
  std::unique_ptr<PackedMatmul> matmul_;
  const PackedCopy* packed_ = nullptr;
  std::vector<std::pair<const float*, int64_t>> bias_;  // parts and their widths
  bool widen_ = false;                                  // x is bf16, multiplied as f32
  int64_t x_stride_ = 0;
  int64_t x_offset_ = 0, matmul_offset_ = 0, scratch_bytes_ = 0;  // in this thread's scratch
};

absl::Status PieceMatmul::Init(const TensorView& x, const WeightParts& weight,
                               const WeightParts& bias, bool transposed, bool full_precision,
                               const TensorView& y, const RowPieces& pieces,
                               CpuOpBuilder& builder) {
  const WeightKey key = BindWeight(weight, builder);
  MatmulShape shape;
  shape.rows = pieces.heights();
  shape.in = key.in;
  shape.out = key.out();
  shape.bf16 = x.dtype == DType::kBf16 && !full_precision;
  shape.bias = !bias.empty();
  shape.out_stride = (transposed ? x : y).columns();
  shape.y = y.dtype == DType::kBf16 ? TileOut::kBf16 : TileOut::kF32;
  VITSCALE_ASSIGN_OR_RETURN(matmul_,
                            MakePackedMatmul(shape, transposed, builder.isa(), builder.threads()));
  VITSCALE_ASSIGN_OR_RETURN(packed_, builder.weights().Get(key, matmul_->format()));
  for (const TensorView& part : bias) {
    bias_.emplace_back(builder.Memory<const float>(part), part.elements());
  }
  elementwise_ = &ElementwiseKernelsFor(builder.isa());
  widen_ = x.dtype == DType::kBf16 && full_precision;
  x_stride_ = x.columns();
  x_offset_ = AlignUp(shape.out * static_cast<int64_t>(sizeof(float)));
  matmul_offset_ = x_offset_ + (widen_ ? AlignUp(pieces.rows_max() * x_stride_ * 4) : 0);
  scratch_bytes_ = AlignUp(matmul_offset_ + matmul_->scratch_bytes());
  return absl::OkStatus();
}

const float* PieceMatmul::Bias(std::byte* scratch) const {
  if (bias_.empty()) return nullptr;
  if (bias_.size() == 1) return bias_[0].first;
  auto* all = reinterpret_cast<float*>(scratch);
  for (float* to = all; const auto& [part, width] : bias_) {
    std::memcpy(to, part, width * sizeof(float));
    to += width;
  }
  return all;
}

void PieceMatmul::Multiply(const RunContext& context, const std::byte* x_row, int64_t rows,
                           void* y) const {
  const void* x = x_row;
  if (widen_) {
    auto* wide = reinterpret_cast<float*>(context.scratch + x_offset_);
    elementwise_->to_f32(reinterpret_cast<const Bf16*>(x_row), wide, rows * x_stride_);
    x = wide;
  }
  matmul_->Multiply(context.thread, rows, x, packed_->data(), Bias(context.scratch), y,
                    context.scratch + matmul_offset_);
}

// GELU over `count` elements of one dtype.
void Gelu(const GeluKernels& kernels, DType dtype, const std::byte* pre, std::byte* y,
          int64_t count) {
  if (dtype == DType::kBf16) {
    kernels.forward_bf16(reinterpret_cast<const Bf16*>(pre), reinterpret_cast<Bf16*>(y), count);
  } else {
    kernels.forward_f32(reinterpret_cast<const float*>(pre), reinterpret_cast<float*>(y), count);
  }
}
template <typename T>
void GeluGrad(void (*backward)(const T*, const T*, T*, int64_t),
              void (*both)(const T*, const T*, T*, T*, int64_t), const std::byte* pre,
              std::byte* grad, std::byte* activation, int64_t count) {
  auto* g = reinterpret_cast<T*>(grad);
  const auto* p = reinterpret_cast<const T*>(pre);
  if (activation == nullptr) return backward(g, p, g, count);
  both(g, p, g, reinterpret_cast<T*>(activation), count);
}
// grad *= gelu'(pre), in place; activation, if there is one, becomes gelu(pre).
void GeluGrad(const GeluKernels& k, DType dtype, const std::byte* pre, std::byte* grad,
              std::byte* activation, int64_t count) {
  if (dtype == DType::kBf16)
    return GeluGrad(k.backward_bf16, k.both_bf16, pre, grad, activation, count);
  GeluGrad(k.backward_f32, k.both_f32, pre, grad, activation, count);
}

class LinearOp : public CpuOp {
 public:
  absl::Status Init(const LinearArgs& args, CpuOpBuilder& builder) {
    epilogue_ = args.epilogue;
    y_type_ = args.y.dtype;
    x_type_ = args.x.dtype;
    in_ = args.x.columns();
    out_ = args.y.columns();
    pieces_ = PiecesOf(args.x.rows(), builder);
    x_ = builder.Memory<const std::byte>(args.x);
    y_ = builder.Memory<std::byte>(args.y);
    pre_ = builder.Memory<std::byte>(args.pre_activation);
    residual_ = builder.Memory<const float>(args.residual);
    gelu_ = &GeluKernelsFor(builder.isa());
    linear_ = &LinearKernelsFor(builder.isa());
    VITSCALE_RETURN_IF_ERROR(matmul_.Init(args.x, args.weight, args.bias, /*transposed=*/false,
                                          args.full_precision, args.y, pieces_, builder));
    const bool sum = epilogue_ == LinearEpilogue::kResidual;
    builder.RequestScratch(matmul_.scratch_bytes() + (sum ? pieces_.rows_max() * out_ * 4 : 0));
    return absl::OkStatus();
  }
  int64_t items(int /*phase*/) const override { return pieces_.tiling.items; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    ForPieces(pieces_, begin, end, [&](int64_t row, int64_t rows) { Piece(context, row, rows); });
  }

 private:
  void Piece(const RunContext& context, int64_t row, int64_t rows) const {
    const auto* x = x_ + row * in_ * DTypeBytes(x_type_);
    std::byte* y = At(y_, row * out_, y_type_);
    const int64_t count = rows * out_;
    switch (epilogue_) {
      case LinearEpilogue::kNone:
        return matmul_.Multiply(context, x, rows, y);
      case LinearEpilogue::kGelu: {
        std::byte* pre = pre_ == nullptr ? y : At(pre_, row * out_, y_type_);
        matmul_.Multiply(context, x, rows, pre);
        return Gelu(*gelu_, y_type_, pre, y, count);
      }
      case LinearEpilogue::kResidual: {
        auto* product = reinterpret_cast<float*>(context.scratch + matmul_.scratch_bytes());
        matmul_.Multiply(context, x, rows, product);
        return linear_->add(residual_ + row * out_, product, reinterpret_cast<float*>(y), count);
      }
    }
  }

  LinearEpilogue epilogue_ = LinearEpilogue::kNone;
  DType x_type_ = DType::kF32, y_type_ = DType::kF32;
  int64_t in_ = 0, out_ = 0;
  RowPieces pieces_;
  PieceMatmul matmul_;
  const std::byte* x_ = nullptr;
  std::byte* y_ = nullptr;
  std::byte* pre_ = nullptr;
  const float* residual_ = nullptr;
  const GeluKernels* gelu_ = nullptr;
  const LinearKernels* linear_ = nullptr;
};

class LinearGradInputOp : public CpuOp {
 public:
  absl::Status Init(const LinearGradInputArgs& args, CpuOpBuilder& builder) {
    y_type_ = args.grad_y.dtype;
    x_type_ = args.grad_x.dtype;
    in_ = args.grad_x.columns();
    out_ = args.grad_y.columns();
    pieces_ = PiecesOf(args.grad_y.rows(), builder);
    grad_y_ = builder.Memory<const std::byte>(args.grad_y);
    grad_x_ = builder.Memory<std::byte>(args.grad_x);
    pre_ = builder.Memory<std::byte>(args.pre_activation);
    activation_ = builder.Memory<std::byte>(args.activation);
    gelu_ = &GeluKernelsFor(builder.isa());
    VITSCALE_RETURN_IF_ERROR(matmul_.Init(args.grad_y, args.weight, /*bias=*/{},
                                          /*transposed=*/true, args.full_precision, args.grad_x,
                                          pieces_, builder));
    builder.RequestScratch(matmul_.scratch_bytes());
    return absl::OkStatus();
  }
  int64_t items(int /*phase*/) const override { return pieces_.tiling.items; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    ForPieces(pieces_, begin, end, [&](int64_t row, int64_t rows) {
      std::byte* grad_x = At(grad_x_, row * in_, x_type_);
      matmul_.Multiply(context, grad_y_ + row * out_ * DTypeBytes(y_type_), rows, grad_x);
      if (pre_ == nullptr) return;
      std::byte* activation =
          activation_ == nullptr ? nullptr : At(activation_, row * in_, x_type_);
      GeluGrad(*gelu_, x_type_, At(pre_, row * in_, x_type_), grad_x, activation, rows * in_);
    });
  }

 private:
  DType x_type_ = DType::kF32, y_type_ = DType::kF32;
  int64_t in_ = 0, out_ = 0;
  RowPieces pieces_;
  PieceMatmul matmul_;
  const std::byte* grad_y_ = nullptr;
  std::byte* grad_x_ = nullptr;
  std::byte* pre_ = nullptr;
  std::byte* activation_ = nullptr;
  const GeluKernels* gelu_ = nullptr;
};

template <typename LinearLikeOp, typename Args>
CpuOpOr Make(const Args& args, CpuOpBuilder& builder) {
  auto op = std::make_unique<LinearLikeOp>();
  VITSCALE_RETURN_IF_ERROR(op->Init(args, builder));
  return op;
}

}  // namespace

CpuOpOr MakeCpuOp(const LinearArgs& args, CpuOpBuilder& builder) {
  return Make<LinearOp>(args, builder);
}
CpuOpOr MakeCpuOp(const LinearGradInputArgs& args, CpuOpBuilder& builder) {
  return Make<LinearGradInputOp>(args, builder);
}

}  // namespace vitscale::cpu
