// EmbedTokens and its backward: image by image; gradients of position and class token are ordered
// sums over the batch.

#include <cstring>
#include <memory>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/share_sum.h"

namespace vitscale::cpu {
namespace {

class EmbedTokensOp : public CpuOp {
 public:
  EmbedTokensOp(const EmbedTokensArgs& args, CpuOpBuilder& builder)
      : batch_(args.batch),
        patches_(args.position.shape[0]),
        width_(args.position.shape[1]),
        embedding_{builder.Memory<const std::byte>(args.embedding), args.embedding.dtype, width_},
        position_(builder.Memory<const float>(args.position)),
        class_token_(builder.Memory<const float>(args.class_token)),
        tokens_{builder.Memory<std::byte>(args.tokens), args.tokens.dtype, width_},
        elementwise_(ElementwiseKernelsFor(builder.isa())),
        linear_(LinearKernelsFor(builder.isa())) {
    if (args.tokens.dtype != DType::kF32) builder.RequestScratch(width_ * sizeof(float));
  }

  int64_t items(int /*phase*/) const override { return batch_; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t image = begin; image < end; ++image) {
      int64_t row = image * (patches_ + (class_token_ != nullptr ? 1 : 0));
      if (class_token_ != nullptr) {
        Convert(elementwise_, DType::kF32, class_token_, tokens_.dtype, tokens_.Row(row++), width_);
      }
      for (int64_t patch = 0; patch < patches_; ++patch) {
        Token(image * patches_ + patch, patch, row + patch, context.scratch);
      }
    }
  }

 private:
  // Added in f32, in place or, where tokens are bf16, in scratch.
  void Token(int64_t from, int64_t patch, int64_t to, std::byte* scratch) const {
    const bool in_place = tokens_.dtype == DType::kF32;
    auto* sum = reinterpret_cast<float*>(in_place ? tokens_.Row(to) : scratch);
    Convert(elementwise_, embedding_.dtype, embedding_.Row(from), DType::kF32, sum, width_);
    linear_.add(sum, position_ + patch * width_, sum, width_);
    if (!in_place) Convert(elementwise_, DType::kF32, sum, tokens_.dtype, tokens_.Row(to), width_);
  }

  const int64_t batch_, patches_, width_;
  const AnyMatrix<const std::byte> embedding_;
  const float* position_;
  const float* class_token_;
  const AnyMatrix<std::byte> tokens_;
  const ElementwiseKernels& elementwise_;
  const LinearKernels& linear_;
};

// Phase 1: item i < patches is row i of grad_position, the last one grad_class_token.
class EmbedTokensGradOp : public CpuOp {
 public:
  EmbedTokensGradOp(const EmbedTokensGradArgs& args, CpuOpBuilder& builder)
      : batch_(args.batch),
        patches_(args.grad_embedding.rows() / args.batch),
        width_(args.grad_embedding.columns()),
        has_class_(args.grad_class_token.present()),
        accumulate_(args.accumulate),
        grad_tokens_(builder.Memory<const float>(args.grad_tokens)),
        grad_embedding_{builder.Memory<std::byte>(args.grad_embedding), args.grad_embedding.dtype,
                        width_},
        grad_position_(builder.Memory<float>(args.grad_position)),
        grad_class_token_(builder.Memory<float>(args.grad_class_token)),
        elementwise_(ElementwiseKernelsFor(builder.isa())),
        share_sum_(ShareSumKernelsFor(builder.isa())) {}

  int phases() const override { return 2; }
  int64_t items(int phase) const override {
    return phase == 0 ? batch_ : patches_ + (has_class_ ? 1 : 0);
  }
  void Run(const RunContext& /*context*/, int phase, int64_t begin, int64_t end) override {
    for (int64_t i = begin; i < end; ++i) phase == 0 ? Image(i) : SumOverBatch(i);
  }

 private:
  int64_t tokens() const { return patches_ + (has_class_ ? 1 : 0); }
  void Image(int64_t image) const {
    const float* from = grad_tokens_ + (image * tokens() + (has_class_ ? 1 : 0)) * width_;
    Convert(elementwise_, DType::kF32, from, grad_embedding_.dtype,
            grad_embedding_.Row(image * patches_), patches_ * width_);
  }
  void SumOverBatch(int64_t item) const {
    const bool is_class = item == patches_;
    float* to = is_class                    ? grad_class_token_
                : grad_position_ == nullptr ? nullptr
                                            : grad_position_ + item * width_;
    if (to == nullptr) return;
    const int64_t token = is_class ? 0 : item + (has_class_ ? 1 : 0);
    share_sum_.sum(grad_tokens_ + token * width_, batch_, tokens() * width_, width_, accumulate_,
                   to);
  }

  const int64_t batch_, patches_, width_;
  const bool has_class_, accumulate_;
  const float* grad_tokens_;
  const AnyMatrix<std::byte> grad_embedding_;
  float* grad_position_;
  float* grad_class_token_;
  const ElementwiseKernels& elementwise_;
  const ShareSumKernels& share_sum_;
};

}  // namespace

CpuOpOr MakeCpuOp(const EmbedTokensArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<EmbedTokensOp>(args, builder);
}
CpuOpOr MakeCpuOp(const EmbedTokensGradArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<EmbedTokensGradOp>(args, builder);
}

}  // namespace vitscale::cpu
