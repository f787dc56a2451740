// LinearGradWeight on CUDA. Contract: LinearGradWeightArgs in kernels/ops.h. Reference:
// kernels/cpu/linear_grad_weight.cc.
//
// One product per part of the weight: parts lie apart in the gradients' arena, and each takes its
// own columns of grad_y. Sums over micro-batches are the product's own `+ c`. The gradient of the
// bias is an ordered column sum (column_sum.h), one more reading of grad_y: cuBLASLt's own bias
// gradient does not say in which order it adds.

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/cuda/column_sum.h"
#include "kernels/cuda/linear.h"

namespace vitscale::cuda {
namespace {

struct GradWeightWork {
  ProductOperand x, grad_y;
  std::vector<std::shared_ptr<const BoundMatmul>> parts;
  std::optional<ColumnSum> bias;  // last: it uses the scratch from its start

  absl::Status Run(const Blas& blas, cudaStream_t stream) const {
    VITSCALE_RETURN_IF_ERROR(x.Widen(stream));
    VITSCALE_RETURN_IF_ERROR(grad_y.Widen(stream));
    for (const auto& part : parts) VITSCALE_RETURN_IF_ERROR(blas.Run(*part, stream));
    return bias.has_value() ? LaunchColumnSum(*bias, stream) : absl::OkStatus();
  }
};

// f32 unless both are bf16: products of bf16 are exact in f32 sums, so nothing is gained by
// widening them.
DType MultipliedAs(const LinearGradWeightArgs& args) {
  const bool both = args.x.dtype == DType::kBf16 && args.grad_y.dtype == DType::kBf16;
  return both ? DType::kBf16 : DType::kF32;
}

}  // namespace

CudaOpOr MakeCudaOp(const LinearGradWeightArgs& args, CudaOpBuilder& builder) {
  const DType input = MultipliedAs(args);
  ScratchPieces scratch(builder);
  GradWeightWork work{ProductOperand(args.x, input, scratch, builder),
                      ProductOperand(args.grad_y, input, scratch, builder),
                      {},
                      std::nullopt};
  int64_t column = 0;
  for (const TensorView& part : args.grad_weight) {
    BlasMatmul m;
    m.rows = args.x.columns();
    m.columns = part.columns();
    m.inner = args.x.rows();
    m.transpose_a = true;
    m.a_stride = args.x.columns();
    m.b_stride = args.grad_y.columns();
    m.d_stride = m.columns;
    m.input = input;
    m.output = DType::kF32;
    m.add = args.accumulate;
    m.a = work.x.at();
    m.b = static_cast<const std::byte*>(work.grad_y.at()) + column * DTypeBytes(input);
    m.d = builder.Memory<void>(part);
    m.c = m.d;
    VITSCALE_ASSIGN_OR_RETURN(work.parts.emplace_back(), BindMatmul(m, builder));
    column += m.columns;
  }
  if (!args.grad_bias.empty()) {
    work.bias = PlanColumnSum(args.grad_y, args.grad_bias, args.accumulate, builder);
  }
  return MakeOp(args.accumulate ? "added" : "written",
                [work = std::move(work), &blas = builder.blas()](const RunContext& context) {
                  return work.Run(blas, context.stream);
                });
}

}  // namespace vitscale::cuda
