// SelfAttention and its backward, one (image, head) at a time on tile matmuls (tile.h) and softmax
// rows (softmax.h).
//
// Forward: query rows are taken in chunks whose scores stay in L1:
//   S = Q K^T, P = softmax(S), out = P V.
// Backward (Dao et al. 2022, arXiv:2205.14135, section B.4, without its tiling of the keys):
//   P again from S and log_sum_exp; dP = dO V^T; delta = rowsum(P * dP);
//   dS = P * (dP - delta) * scale; dQ = dS K; dK = dS^T Q; dV = P^T dO.
// That paper has delta = rowsum(dO * O), the same number. But O is kept in bf16, and with its
// rounding the rows of dS no longer sum to 0, which is what makes the gradients of key biases
// vanish: their noise was four times as large. Whole rows of P are at hand here, so O is not read.

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/tile.h"

VITSCALE_SIMD_TABLE(SoftmaxKernels, kSoftmaxKernels, SoftmaxKernelsFor)

namespace vitscale::cpu {
namespace {

constexpr int64_t kChunkBytes = 16384;  // of scores
constexpr int64_t kChunkRowsMin = 24;

template <typename T>
constexpr bool kIsBf16 = sizeof(T) == sizeof(Bf16);

// Scratch handed out piece by piece, in whole cache lines.
class Layout {
 public:
  int64_t Add(int64_t bytes) {
    const int64_t offset = bytes_;
    bytes_ += AlignUp(bytes);
    return offset;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

struct Heads {
  int64_t batch, tokens, heads, head_dim;
  int64_t width() const { return heads * head_dim; }
};

// What forward and backward share: kernels and the sizes of one head.
template <typename T>
class HeadMatmuls {
 public:
  HeadMatmuls(const Heads& heads, Isa isa)
      : heads_(heads),
        tile_(TileKernelsFor(isa, kIsBf16<T>)),
        softmax_(SoftmaxKernelsFor(isa)),
        scale_(1.0f / std::sqrt(static_cast<float>(heads.head_dim))),
        padded_(tile_.PaddedColumns(heads.tokens)) {}

  int64_t chunk_rows() const {
    const int64_t rows = std::max(kChunkRowsMin, kChunkBytes / (padded_ * 4));
    return std::min(heads_.tokens, rows);
  }
  // Bytes of a packed operand with `columns` columns and a summed dimension of `k`.
  int64_t Packed(int64_t columns, int64_t k) const { return tile_.PackedUnits(columns, k) * 4; }
  int64_t ScoreBytes(int64_t rows, int64_t element) const { return rows * padded_ * element; }

  // Columns of probabilities that a product sums over: whole units, since columns beyond the last
  // are zero (softmax.h).
  int64_t summed_tokens() const { return tile_.Units(heads_.tokens) * tile_.units_per_lane; }

  // C = A B with a natural A [rows, k]; `copy` has room for rows * Units(k) units.
  template <typename Out>
  void Natural(const T* a, int64_t a_stride, int64_t rows, int64_t k, const void* b,
               int64_t columns, Out* c, int64_t c_stride, void* copy) const {
    TileMatmul m = Shape(rows, k, columns, b, c, c_stride);
    m.a = tile_.natural(a, a_stride, rows, k, copy, &m.a_stride);
    tile_.multiply(m);
  }
  // C = A^T B with A interleaved along its rows.
  void Interleaved(const void* a, int64_t rows, int64_t k, const void* b, int64_t columns, T* c,
                   int64_t c_stride) const {
    TileMatmul m = Shape(rows, k, columns, b, c, c_stride);
    m.a = a;
    m.a_interleaved = true;
    m.a_stride = tile_.PaddedColumns(rows);
    tile_.multiply(m);
  }

  const Heads heads_;
  const TileKernels& tile_;
  const SoftmaxKernels& softmax_;
  const float scale_;
  const int64_t padded_;  // columns of a row of scores

 private:
  template <typename Out>
  TileMatmul Shape(int64_t rows, int64_t k, int64_t columns, const void* b, Out* c,
                   int64_t c_stride) const {
    TileMatmul m;
    m.rows = rows;
    m.columns = columns;
    m.k = tile_.Units(k);
    m.b = b;
    m.c = c;
    m.c_stride = c_stride;
    m.out = kIsBf16<Out> ? TileOut::kBf16 : TileOut::kF32;
    return m;
  }
};

template <typename T>
class SelfAttentionOp : public CpuOp {
 public:
  SelfAttentionOp(const SelfAttentionArgs& args, CpuOpBuilder& builder)
      : m_({args.batch, args.tokens, args.heads, args.out.columns() / args.heads}, builder.isa()),
        qkv_(builder.Memory<const T>(args.qkv)),
        out_(builder.Memory<T>(args.out)),
        log_sum_exp_(builder.Memory<float>(args.log_sum_exp)) {
    const int64_t tokens = args.tokens, dim = m_.heads_.head_dim, chunk = m_.chunk_rows();
    Layout layout;
    keys_ = layout.Add(m_.Packed(tokens, dim));
    values_ = layout.Add(m_.Packed(dim, tokens));
    scores_ = layout.Add(m_.ScoreBytes(chunk, 4));
    weights_ = layout.Add(m_.ScoreBytes(chunk, sizeof(T)));
    copy_ = layout.Add(chunk * std::max(m_.summed_tokens(), dim) * 4);
    rows_ = layout.Add(2 * chunk * 4);
    builder.RequestScratch(layout.bytes());
  }
  int64_t items(int /*phase*/) const override { return m_.heads_.batch; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t image = begin; image < end; ++image) {
      for (int64_t head = 0; head < m_.heads_.heads; ++head) Head(context.scratch, image, head);
    }
  }

 private:
  void Head(std::byte* scratch, int64_t image, int64_t head) const {
    const Heads& h = m_.heads_;
    const int64_t stride = 3 * h.width();
    const T* q = qkv_ + image * h.tokens * stride + head * h.head_dim;
    m_.tile_.pack_columns(q + h.width(), stride, h.head_dim, h.tokens, scratch + keys_);
    m_.tile_.pack_rows(q + 2 * h.width(), stride, h.tokens, h.head_dim, scratch + values_);
    T* out = out_ + image * h.tokens * h.width() + head * h.head_dim;
    float* log_sum_exp =
        log_sum_exp_ == nullptr ? nullptr : log_sum_exp_ + (image * h.heads + head) * h.tokens;
    for (int64_t row = 0; row < h.tokens; row += m_.chunk_rows()) {
      const int64_t rows = std::min(m_.chunk_rows(), h.tokens - row);
      Chunk(scratch, q + row * stride, rows, out + row * h.width(),
            log_sum_exp == nullptr ? nullptr : log_sum_exp + row);
    }
  }

  void Chunk(std::byte* scratch, const T* q, int64_t rows, T* out, float* log_sum_exp) const {
    const Heads& h = m_.heads_;
    auto* scores = reinterpret_cast<float*>(scratch + scores_);
    auto* weights = reinterpret_cast<T*>(scratch + weights_);
    auto* max = reinterpret_cast<float*>(scratch + rows_);
    float* sum = max + rows;
    m_.Natural(q, 3 * h.width(), rows, h.head_dim, scratch + keys_, h.tokens, scores, m_.padded_,
               scratch + copy_);
    const ScoreRows shape{rows, h.tokens, m_.padded_, m_.scale_};
    if constexpr (kIsBf16<T>) {
      m_.softmax_.forward_bf16(shape, scores, weights, max, sum);
    } else {
      m_.softmax_.forward_f32(shape, scores, weights, max, sum);
    }
    m_.Natural(weights, m_.padded_, rows, m_.summed_tokens(), scratch + values_, h.head_dim, out,
               h.width(), scratch + copy_);
    if (log_sum_exp == nullptr) return;
    for (int64_t r = 0; r < rows; ++r) log_sum_exp[r] = max[r] * m_.scale_ + std::log(sum[r]);
  }

  HeadMatmuls<T> m_;
  const T* qkv_;
  T* out_;
  float* log_sum_exp_;
  int64_t keys_, values_, scores_, weights_, copy_, rows_;  // places in scratch
};

template <typename T>
class SelfAttentionGradOp : public CpuOp {
 public:
  SelfAttentionGradOp(const SelfAttentionGradArgs& args, CpuOpBuilder& builder)
      : m_({args.batch, args.tokens, args.heads, args.out.columns() / args.heads}, builder.isa()),
        grad_out_(builder.Memory<const T>(args.grad_out)),
        qkv_(builder.Memory<const T>(args.qkv)),
        log_sum_exp_(builder.Memory<const float>(args.log_sum_exp)),
        grad_qkv_(builder.Memory<T>(args.grad_qkv)) {
    const int64_t tokens = args.tokens, dim = m_.heads_.head_dim, chunk = m_.chunk_rows();
    Layout layout;
    keys_ = layout.Add(m_.Packed(tokens, dim));
    values_ = layout.Add(m_.Packed(tokens, dim));
    key_rows_ = layout.Add(m_.Packed(dim, tokens));
    scores_ = layout.Add(m_.ScoreBytes(chunk, 4));
    grad_weights_ = layout.Add(m_.ScoreBytes(chunk, 4));
    weights_ = layout.Add(m_.ScoreBytes(tokens, sizeof(T)));
    grad_scores_ = layout.Add(m_.ScoreBytes(tokens, sizeof(T)));
    interleaved_ = layout.Add(m_.Packed(tokens, tokens));
    row_operand_ = layout.Add(m_.Packed(dim, tokens));
    copy_ = layout.Add(chunk * std::max(m_.summed_tokens(), dim) * 4);
    delta_ = layout.Add(chunk * 4);
    builder.RequestScratch(layout.bytes());
  }
  int64_t items(int /*phase*/) const override { return m_.heads_.batch; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t image = begin; image < end; ++image) {
      for (int64_t head = 0; head < m_.heads_.heads; ++head) Head(context.scratch, image, head);
    }
  }

 private:
  void Head(std::byte* scratch, int64_t image, int64_t head) const {
    const Heads& h = m_.heads_;
    const int64_t stride = 3 * h.width();
    const int64_t at = image * h.tokens * stride + head * h.head_dim;
    const int64_t out_at = image * h.tokens * h.width() + head * h.head_dim;
    const T *q = qkv_ + at, *k = q + h.width(), *v = k + h.width();
    m_.tile_.pack_columns(k, stride, h.head_dim, h.tokens, scratch + keys_);
    m_.tile_.pack_columns(v, stride, h.head_dim, h.tokens, scratch + values_);
    m_.tile_.pack_rows(k, stride, h.tokens, h.head_dim, scratch + key_rows_);
    const float* log_sum_exp = log_sum_exp_ + (image * h.heads + head) * h.tokens;
    for (int64_t row = 0; row < h.tokens; row += m_.chunk_rows()) {
      const int64_t rows = std::min(m_.chunk_rows(), h.tokens - row);
      Chunk(scratch, row, rows, q, grad_out_ + out_at, log_sum_exp, grad_qkv_ + at);
    }
    T* grad_k = grad_qkv_ + at + h.width();
    TransposedProduct(scratch, scratch + grad_scores_, q, stride, grad_k);
    TransposedProduct(scratch, scratch + weights_, grad_out_ + out_at, h.width(),
                      grad_k + h.width());
  }

  // P and dS of some query rows, and their rows of dQ.
  void Chunk(std::byte* scratch, int64_t row, int64_t rows, const T* q, const T* grad_out,
             const float* log_sum_exp, T* grad_q) const {
    const Heads& h = m_.heads_;
    const int64_t width = h.width(), at = row * width;
    auto* scores = reinterpret_cast<float*>(scratch + scores_);
    auto* grad_weights = reinterpret_cast<float*>(scratch + grad_weights_);
    auto* delta = reinterpret_cast<float*>(scratch + delta_);
    T* weights = reinterpret_cast<T*>(scratch + weights_) + row * m_.padded_;
    T* grad_scores = reinterpret_cast<T*>(scratch + grad_scores_) + row * m_.padded_;
    m_.Natural(q + 3 * at, 3 * width, rows, h.head_dim, scratch + keys_, h.tokens, scores,
               m_.padded_, scratch + copy_);
    m_.Natural(grad_out + at, width, rows, h.head_dim, scratch + values_, h.tokens, grad_weights,
               m_.padded_, scratch + copy_);
    const ScoreRows shape{rows, h.tokens, m_.padded_, m_.scale_};
    if constexpr (kIsBf16<T>) {
      m_.softmax_.backward_bf16(shape, scores, grad_weights, log_sum_exp + row, delta, weights,
                                grad_scores);
    } else {
      m_.softmax_.backward_f32(shape, scores, grad_weights, log_sum_exp + row, delta, weights,
                               grad_scores);
    }
    m_.Natural(grad_scores, m_.padded_, rows, m_.summed_tokens(), scratch + key_rows_, h.head_dim,
               grad_q + 3 * at, 3 * width, scratch + copy_);
  }

  // to = scores^T b, for scores [tokens, tokens] and b [tokens, head_dim]; rows of `to` are those
  // of grad_qkv.
  void TransposedProduct(std::byte* scratch, const std::byte* scores, const T* b, int64_t b_stride,
                         T* to) const {
    const Heads& h = m_.heads_;
    m_.tile_.interleave_rows(scores, m_.padded_, h.tokens, h.tokens, scratch + interleaved_);
    m_.tile_.pack_rows(b, b_stride, h.tokens, h.head_dim, scratch + row_operand_);
    m_.Interleaved(scratch + interleaved_, h.tokens, h.tokens, scratch + row_operand_, h.head_dim,
                   to, 3 * h.width());
  }

  HeadMatmuls<T> m_;
  const T* grad_out_;
  const T* qkv_;
  const float* log_sum_exp_;
  T* grad_qkv_;
  int64_t keys_, values_, key_rows_, scores_, grad_weights_, weights_, grad_scores_, interleaved_,
      row_operand_, copy_, delta_;  // places in scratch
};

}  // namespace

CpuOpOr MakeCpuOp(const SelfAttentionArgs& args, CpuOpBuilder& builder) {
  if (args.out.dtype == DType::kBf16) return std::make_unique<SelfAttentionOp<Bf16>>(args, builder);
  return std::make_unique<SelfAttentionOp<float>>(args, builder);
}
CpuOpOr MakeCpuOp(const SelfAttentionGradArgs& args, CpuOpBuilder& builder) {
  if (args.out.dtype == DType::kBf16) {
    return std::make_unique<SelfAttentionGradOp<Bf16>>(args, builder);
  }
  return std::make_unique<SelfAttentionGradOp<float>>(args, builder);
}

}  // namespace vitscale::cpu
