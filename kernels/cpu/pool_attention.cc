// PoolAttention and its backward: an image per item; the gradient of the query is an ordered sum
// over images.

#include "kernels/cpu/pool_attention.h"

#include <cmath>
#include <memory>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/share_sum.h"

VITSCALE_SIMD_TABLE(PoolAttentionKernels, kPoolAttentionKernels, PoolAttentionKernelsFor)

namespace vitscale::cpu {
namespace {

constexpr int64_t kColumnsPerItem = 64;  // of the ordered sum

struct Common {
  template <typename Args>
  Common(const Args& args, CpuOpBuilder& builder)
      : batch(args.batch),
        width(args.query.columns()),
        kernels(PoolAttentionKernelsFor(builder.isa())),
        elementwise(ElementwiseKernelsFor(builder.isa())) {
    shape.tokens = args.tokens;
    shape.heads = args.heads;
    shape.head_dim = width / args.heads;
    shape.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  }
  int64_t batch, width;
  PoolAttentionShape shape;
  const PoolAttentionKernels& kernels;
  const ElementwiseKernels& elementwise;
};

class PoolAttentionOp : public CpuOp {
 public:
  PoolAttentionOp(const PoolAttentionArgs& args, CpuOpBuilder& builder)
      : common_(args, builder),
        query_(builder.Memory<const float>(args.query)),
        key_value_{builder.Memory<const std::byte>(args.key_value), args.key_value.dtype,
                   2 * common_.width},
        out_{builder.Memory<std::byte>(args.out), args.out.dtype, common_.width},
        log_sum_exp_(builder.Memory<float>(args.log_sum_exp)) {
    builder.RequestScratch((2 * args.tokens + common_.width + 2 * args.heads) * 4);
  }
  int64_t items(int /*phase*/) const override { return common_.batch; }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t image = begin; image < end; ++image) {
      Image(reinterpret_cast<float*>(context.scratch), image);
    }
  }

 private:
  void Image(float* scratch, int64_t image) const {
    const PoolAttentionShape& s = common_.shape;
    float* out = scratch + 2 * s.tokens;
    float* max = out + common_.width;
    float* sum = max + s.heads;
    const std::byte* rows = key_value_.Row(image * s.tokens);
    if (key_value_.dtype == DType::kBf16) {
      common_.kernels.forward_bf16(s, query_, reinterpret_cast<const Bf16*>(rows), scratch, out,
                                   max, sum);
    } else {
      common_.kernels.forward_f32(s, query_, reinterpret_cast<const float*>(rows), scratch, out,
                                  max, sum);
    }
    Convert(common_.elementwise, DType::kF32, out, out_.dtype, out_.Row(image), common_.width);
    if (log_sum_exp_ == nullptr) return;
    for (int64_t h = 0; h < s.heads; ++h) {
      log_sum_exp_[image * s.heads + h] = max[h] + std::log(sum[h]);
    }
  }

  const Common common_;
  const float* query_;
  const AnyMatrix<const std::byte> key_value_;
  const AnyMatrix<std::byte> out_;
  float* log_sum_exp_;
};

class PoolAttentionGradOp : public CpuOp {
 public:
  PoolAttentionGradOp(const PoolAttentionGradArgs& args, CpuOpBuilder& builder)
      : common_(args, builder),
        query_(builder.Memory<const float>(args.query)),
        key_value_{builder.Memory<const std::byte>(args.key_value), args.key_value.dtype,
                   2 * common_.width},
        grad_out_{builder.Memory<const std::byte>(args.grad_out), args.grad_out.dtype,
                  common_.width},
        log_sum_exp_(builder.Memory<const float>(args.log_sum_exp)),
        grad_query_(builder.Memory<float>(args.grad_query)),
        grad_key_value_{builder.Memory<std::byte>(args.grad_key_value), args.grad_key_value.dtype,
                        2 * common_.width},
        shares_(builder.Reserve<float>(args.batch * common_.width)),
        share_sum_(ShareSumKernelsFor(builder.isa())) {
    builder.RequestScratch((2 * args.tokens + common_.width) * 4);
  }
  int phases() const override { return 2; }
  int64_t items(int phase) const override {
    return phase == 0 ? common_.batch : (common_.width + kColumnsPerItem - 1) / kColumnsPerItem;
  }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    for (int64_t i = begin; i < end; ++i) {
      phase == 0 ? Image(reinterpret_cast<float*>(context.scratch), i) : SumShares(i);
    }
  }

 private:
  void Image(float* scratch, int64_t image) const {
    const PoolAttentionShape& s = common_.shape;
    float* grad_out = scratch + 2 * s.tokens;
    Convert(common_.elementwise, grad_out_.dtype, grad_out_.Row(image), DType::kF32, grad_out,
            common_.width);
    const float* log_sum_exp = log_sum_exp_ + image * s.heads;
    float* share = shares_ + image * common_.width;
    const std::byte* rows = key_value_.Row(image * s.tokens);
    std::byte* grad_rows = grad_key_value_.Row(image * s.tokens);
    if (key_value_.dtype == DType::kBf16) {
      common_.kernels.backward_bf16(s, query_, reinterpret_cast<const Bf16*>(rows), grad_out,
                                    log_sum_exp, scratch, share,
                                    reinterpret_cast<Bf16*>(grad_rows));
    } else {
      common_.kernels.backward_f32(s, query_, reinterpret_cast<const float*>(rows), grad_out,
                                   log_sum_exp, scratch, share,
                                   reinterpret_cast<float*>(grad_rows));
    }
  }
  void SumShares(int64_t item) const {
    const int64_t column = item * kColumnsPerItem;
    share_sum_.sum(shares_ + column, common_.batch, common_.width,
                   std::min(kColumnsPerItem, common_.width - column), /*accumulate=*/false,
                   grad_query_ + column);
  }

  const Common common_;
  const float* query_;
  const AnyMatrix<const std::byte> key_value_, grad_out_;
  const float* log_sum_exp_;
  float* grad_query_;
  const AnyMatrix<std::byte> grad_key_value_;
  float* shares_;  // [batch, width]
  const ShareSumKernels& share_sum_;
};

}  // namespace

CpuOpOr MakeCpuOp(const PoolAttentionArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<PoolAttentionOp>(args, builder);
}
CpuOpOr MakeCpuOp(const PoolAttentionGradArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<PoolAttentionGradOp>(args, builder);
}

}  // namespace vitscale::cpu
