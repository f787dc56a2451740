#include "worker/plan/card_bytes.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "kernels/factored_shape.h"

namespace vitscale {
namespace {

// Of the kernels; which file has them stands behind each.
constexpr int64_t kPieceAlignment = 256;     // program_binder.cc
constexpr int64_t kColumnSumRows = 128;      // column_sum.cu: rows of a tile
constexpr int64_t kNormWarps = 16;           // layernorm_grad.cu: of a multiprocessor
constexpr int64_t kNormRows = 2;             // layernorm_grad.cu: of a tile, at least
constexpr int64_t kNormColumns = 256;        // layernorm_grad.cu: of a warp
constexpr int64_t kEmbedThreads = 1024;      // embed.cu: of a multiprocessor
constexpr int64_t kEmbedGroups = 64;         // embed.cu: at most
constexpr int64_t kQueryRows = 64;           // attention_tile.h: tokens are padded to as many
constexpr int64_t kCellEdge = 128;           // parameter_grid.h: rows, and columns, of a cell
constexpr int64_t kRunElements = 128 * 128;  // parameter_grid.h: of a tensor that is not factored
constexpr int64_t kMultiprocessors = 132;    // of an H100 or H200; other cards hold less

// cudaMalloc maps pieces of 2 MiB; what is below 1 MiB shares one.
int64_t Allocated(int64_t bytes) {
  constexpr int64_t kPiece = int64_t{2} << 20;
  return bytes < kPiece / 2 ? AlignUp(bytes, 512) : AlignUp(bytes, kPiece);
}

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

DType MultipliedAs(const TensorView& operand, bool full_precision) {
  return full_precision ? DType::kF32 : operand.dtype;
}

// ---- weights
// -------------------------------------------------------------------------------------

// Both directions of a matmul read the same copy; an f32 weight in one part without padding is its
// own.
class WeightSurvey {
 public:
  void operator()(const LinearArgs& a) {
    const DType input = MultipliedAs(a.x, a.full_precision);
    Note(a.weight, input, a.y.columns());
    const bool unfused = input == DType::kF32 && a.y.dtype == DType::kBf16;
    if (!a.bias.empty()) Note(a.bias, unfused ? DType::kF32 : a.y.dtype, a.y.columns());
  }
  void operator()(const LinearGradInputArgs& a) {
    Note(a.weight, MultipliedAs(a.grad_y, a.full_precision), a.grad_y.columns());
  }
  template <typename Other>
  void operator()(const Other&) {}

  int64_t bytes() const {
    int64_t bytes = 0;
    for (const auto& [key, size] : copies_) bytes += Allocated(size);
    return bytes;
  }

 private:
  void Note(const WeightParts& parts, DType dtype, int64_t columns) {
    if (dtype == DType::kF32 && parts.size() == 1 && columns == Columns(parts)) return;
    copies_[{parts[0].offset, static_cast<int>(dtype)}] =
        parts[0].elements() / parts[0].columns() * columns * DTypeBytes(dtype);
  }
  std::map<std::tuple<int64_t, int>, int64_t> copies_;  // by place and dtype
};

// ---- workspace
// -----------------------------------------------------------------------------------

// What ops reserve adds up; scratch is shared, so the greatest counts.
class WorkspaceSurvey {
 public:
  void operator()(const LinearArgs& a) {
    const DType input = MultipliedAs(a.x, a.full_precision);
    const int64_t product =
        input == DType::kF32 && a.y.dtype == DType::kBf16 ? Piece(a.y.elements() * 4) : 0;
    Scratch(Widened(a.x, input) + product);
  }
  void operator()(const LinearGradInputArgs& a) {
    const DType input = MultipliedAs(a.grad_y, a.full_precision);
    const int64_t product =
        input == DType::kF32 && a.grad_x.dtype == DType::kBf16 ? Piece(a.grad_x.elements() * 4) : 0;
    Scratch(Widened(a.grad_y, input) + product);
  }
  void operator()(const LinearGradWeightArgs& a) {
    const bool bf16 = a.x.dtype == DType::kBf16 && a.grad_y.dtype == DType::kBf16;
    const DType input = bf16 ? DType::kBf16 : DType::kF32;
    Scratch(Widened(a.x, input) + Widened(a.grad_y, input));
    if (!a.grad_bias.empty()) {
      Scratch(CeilDivide(a.grad_y.rows(), kColumnSumRows) * a.grad_y.columns() * 4);
    }
  }
  void operator()(const LayerNormGradArgs& a) {
    const int64_t warps = CeilDivide(a.x.columns(), kNormColumns);
    const int64_t blocks = kMultiprocessors * std::max<int64_t>(1, kNormWarps / warps);
    const int64_t rows_per_tile = AlignUp(CeilDivide(a.x.rows(), blocks), kNormRows);
    Scratch(CeilDivide(a.x.rows(), rows_per_tile) * 2 * a.x.columns() * 4);
  }
  void operator()(const EmbedTokensGradArgs& a) {
    const int64_t elements = a.grad_tokens.elements() / a.batch;
    const int64_t wanted = CeilDivide(kMultiprocessors * kEmbedThreads, CeilDivide(elements, 4));
    Scratch(std::min({a.batch, wanted, kEmbedGroups}) * elements * 4);
  }
  void operator()(const SelfAttentionGradArgs& a) {
    Scratch(2 * a.batch * a.heads * AlignUp(a.tokens, kQueryRows) * 4);
  }
  void operator()(const PoolAttentionGradArgs& a) {
    Scratch(a.batch * a.heads * a.tokens * 8 + a.batch * a.query.columns() * 4);
  }
  void operator()(const SigmoidLossArgs& a) { Loss(a); }
  void operator()(const SoftmaxLossArgs& a) { Loss(a); }
  void operator()(const GradStatsArgs& a) {
    int64_t slots = 0, cells = 0;
    for (const OptimizedTensor& tensor : a.tensors) {
      cells += Cells(tensor);
      slots += Slots(tensor);
    }
    Scratch(cells * 8 + slots * 4);
    Reserve(cells * 8);
  }
  void operator()(const AdafactorApplyArgs& a) {
    for (const OptimizedTensor& tensor : a.tensors) {
      if (tensor.factoring.factored) Reserve(tensor.second_moment.elements() * 4);
    }
    Update(a);
  }
  void operator()(const AdamWApplyArgs& a) { Update(a); }
  void operator()(const SgdApplyArgs& a) { Update(a); }
  template <typename Other>
  void operator()(const Other&) {}

  int64_t bytes() const { return reserved_ + scratch_; }

 private:
  static int64_t Piece(int64_t bytes) { return AlignUp(bytes, kPieceAlignment); }
  static int64_t Widened(const TensorView& operand, DType want) {
    return operand.dtype == want ? 0 : Piece(operand.elements() * 4);
  }
  // As MakeParameterGrid cuts a tensor.
  static int64_t Cells(const OptimizedTensor& tensor) {
    if (!tensor.factoring.factored) return CeilDivide(tensor.gradient.elements(), kRunElements);
    const FactoredShape shape = FactoredShapeOf(tensor.gradient.shape, tensor.factoring);
    int64_t lanes = 1;
    while (4 * lanes < std::min(shape.b, kCellEdge)) lanes *= 2;
    const int64_t units = shape.mid * shape.inner * CeilDivide(shape.b, kCellEdge);
    return shape.outer * CeilDivide(shape.a, kCellEdge) * CeilDivide(units, 32 / lanes);
  }
  // A sum per column and per row of a cell.
  static int64_t Slots(const OptimizedTensor& tensor) {
    if (!tensor.factoring.factored) return 0;
    const FactoredShape shape = FactoredShapeOf(tensor.gradient.shape, tensor.factoring);
    const int64_t pieces = shape.mid * shape.inner * CeilDivide(shape.b, kCellEdge);
    return shape.outer * (CeilDivide(shape.a, kCellEdge) * shape.row_length() + shape.a * pieces);
  }
  void Scratch(int64_t bytes) { scratch_ = std::max(scratch_, Piece(bytes)); }
  void Reserve(int64_t bytes) { reserved_ += Piece(bytes); }
  void Loss(const LossArgs& a) { Reserve(a.logits.rows() * 16); }
  void Update(const OptimizerArgs& a) {
    int64_t cells = 0;
    for (const OptimizedTensor& tensor : a.tensors) cells += Cells(tensor);
    Scratch(cells * 16);
    Reserve(cells * 8);
  }

  int64_t reserved_ = 0, scratch_ = 0;
};

}  // namespace

int64_t CardWeightBytes(const Program& program) {
  WeightSurvey survey;
  for (const Op& op : program.ops()) std::visit(survey, op);
  return survey.bytes();
}

int64_t CardWorkspaceBytes(const Program& program) {
  WorkspaceSurvey survey;
  for (const Op& op : program.ops()) std::visit(survey, op);
  return survey.bytes();
}

}  // namespace vitscale
