// Linear and LinearGradInput on CUDA. Contract: LinearArgs, LinearGradInputArgs in kernels/ops.h.
// Reference: kernels/cpu/linear.cc.
//
//   variant   chosen when                                 memory traffic
//   fused     cuBLASLt has an algorithm with the          operands once; bias, residual and GELU's
//             epilogue                                    gradient cost no more than they are read
//   unfused   otherwise: f32 products into bf16, GELU's   the same, and the product as f32 written
//             gradient at a width that is odd to 8        and read once more
//
// GELU itself is a pass of our own behind either: 4 B per element in bf16, 2 B (the reading) more
// than inside of the product. That is what makes it gelu(pre-activation as stored), as on the CPU,
// and the same bits whether the pre-activation is kept or not and whether backward computes it
// again: cuBLASLt takes the value before it is rounded, by a formula and by algorithms that differ
// from epilogue to epilogue, so no bit of its GELU could be promised again.
//
// Padded logits are a product with padded copies of weight and bias (device_weights.h): all of its
// rows begin at multiples of 16 bytes, and its sums run over whole groups of eight.
//
// cuBLASLt's bias has the dtype of its output: a bf16 output gets the bias rounded to bf16 (copies:
// device_weights.h), off by at most 2^-9 |bias|, half of what rounding the output costs where the
// bias is all there is.

#include "kernels/cuda/linear.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/device_weights.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kAuxMultiple = 8;  // of the leading dimension of a saved pre-activation

// A product and what stands around it.
struct LinearWork {
  ProductOperand x;
  std::shared_ptr<const BoundMatmul> matmul;
  std::optional<GeluPass> gelu;
  std::optional<LinearTail> tail;  // unfused

  absl::Status Run(const Blas& blas, cudaStream_t stream) const {
    VITSCALE_RETURN_IF_ERROR(x.Widen(stream));
    VITSCALE_RETURN_IF_ERROR(blas.Run(*matmul, stream));
    if (tail.has_value()) VITSCALE_RETURN_IF_ERROR(LaunchTail(*tail, stream));
    return gelu.has_value() ? LaunchGelu(*gelu, stream) : absl::OkStatus();
  }
};

// One op in both forms: what a fused product would be, and the tail that does its epilogue else.
struct LinearForms {
  BlasMatmul fused;
  LinearTail tail;
  const WeightParts* weight = nullptr;  // of the op's args
  const WeightParts* bias = nullptr;    // null or empty: none

  bool has_bias() const { return bias != nullptr && !bias->empty(); }
};

// Why cuBLASLt cannot fuse this, as far as its manual says; empty: it may.
std::string CannotFuse(const BlasMatmul& m) {
  if (m.input == DType::kF32 && m.output == DType::kBf16) return "f32 products into bf16";
  if (m.aux != nullptr && m.columns % kAuxMultiple != 0) {
    return absl::StrCat("width ", m.columns, " is no multiple of 8");
  }
  return "";
}

// The product alone, in f32: into y where that is f32, else into scratch.
BlasMatmul PlainProduct(const BlasMatmul& fused, ScratchPieces& scratch) {
  BlasMatmul plain = fused;
  plain.epilogue = BlasEpilogue::kNone;
  plain.bias = nullptr;
  plain.aux = nullptr;
  if (plain.output != DType::kF32) {
    plain.output = DType::kF32;
    plain.d = scratch.Take<float>(plain.rows * plain.columns);
    plain.d_stride = plain.columns;
  }
  return plain;
}

absl::Status BindUnfused(LinearForms forms, LinearWork& work, ScratchPieces& scratch,
                         CudaOpBuilder& builder) {
  const BlasMatmul plain = PlainProduct(forms.fused, scratch);
  VITSCALE_ASSIGN_OR_RETURN(work.matmul, BindMatmul(plain, builder));
  forms.tail.product = static_cast<const float*>(plain.d);
  if (forms.has_bias()) {
    VITSCALE_ASSIGN_OR_RETURN(
        const void* bias,
        builder.weights().Bias(*forms.bias, *forms.weight, DType::kF32, plain.columns, builder));
    forms.tail.bias = static_cast<const float*>(bias);
  }
  if (forms.tail.kind != TailKind::kPlain || forms.tail.bias != nullptr ||
      forms.tail.dtype != DType::kF32) {
    work.tail = forms.tail;
  }
  return absl::OkStatus();
}

// UNIMPLEMENTED with the reason where the library cannot do it.
absl::Status BindFused(LinearForms forms, LinearWork& work, CudaOpBuilder& builder) {
  const std::string why = CannotFuse(forms.fused);
  if (!why.empty()) return absl::UnimplementedError(why);
  if (forms.has_bias()) {
    VITSCALE_ASSIGN_OR_RETURN(forms.fused.bias,
                              builder.weights().Bias(*forms.bias, *forms.weight, forms.fused.output,
                                                     forms.fused.columns, builder));
  }
  VITSCALE_ASSIGN_OR_RETURN(work.matmul, BindMatmul(forms.fused, builder));
  return absl::OkStatus();
}

CudaOpOr MakeLinearOp(std::string name, const LinearForms& forms, LinearWork work,
                      ScratchPieces& scratch, CudaOpBuilder& builder) {
  std::string variant = absl::StrCat(name, ", fused");
  const absl::Status fused = BindFused(forms, work, builder);
  if (absl::IsUnimplemented(fused)) {
    VITSCALE_RETURN_IF_ERROR(BindUnfused(forms, work, scratch, builder));
    variant = absl::StrCat(name, ", unfused: ", fused.message());
  } else {
    VITSCALE_RETURN_IF_ERROR(fused);
  }
  return MakeOp(variant, [work = std::move(work), &blas = builder.blas()](
                             const RunContext& context) { return work.Run(blas, context.stream); });
}

std::string ForwardName(const LinearArgs& args) {
  std::string name = args.bias.empty() ? "product" : "bias";
  if (args.epilogue == LinearEpilogue::kGelu) name += " and GELU";
  if (args.epilogue == LinearEpilogue::kResidual) name += " and residual";
  return name;
}

// f32 where it is asked for, else as the operand is.
DType MultipliedAs(const TensorView& operand, bool full_precision) {
  return full_precision ? DType::kF32 : operand.dtype;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const BoundMatmul>> BindMatmul(const BlasMatmul& matmul,
                                                              CudaOpBuilder& builder) {
  VITSCALE_ASSIGN_OR_RETURN(auto bound, builder.blas().Bind(matmul));
  builder.NoteChoice(ChoiceOf(*bound));
  return bound;
}

CudaOpOr MakeCudaOp(const LinearArgs& args, CudaOpBuilder& builder) {
  const DType input = MultipliedAs(args.x, args.full_precision);
  ScratchPieces scratch(builder);
  LinearWork work{ProductOperand(args.x, input, scratch, builder)};
  LinearForms forms;
  BlasMatmul& m = forms.fused;
  m.rows = args.x.rows();
  m.inner = args.x.columns();
  m.columns = args.y.columns();
  m.a_stride = m.inner;
  m.b_stride = m.d_stride = m.columns;
  m.input = input;
  m.output = args.y.dtype;
  m.epilogue = args.bias.empty() ? BlasEpilogue::kNone : BlasEpilogue::kBias;
  m.add = args.epilogue == LinearEpilogue::kResidual;
  m.a = work.x.at();
  VITSCALE_ASSIGN_OR_RETURN(m.b, builder.weights().Weight(args.weight, input, m.columns, builder));
  m.c = builder.Memory<const void>(args.residual);
  // GELU works in place where the pre-activation is not kept.
  const bool keeps = args.pre_activation.present();
  m.d = builder.Memory<void>(keeps ? args.pre_activation : args.y);
  if (args.epilogue == LinearEpilogue::kGelu) {
    work.gelu = {m.d, builder.Memory<void>(args.y), m.output, args.y.elements()};
  }
  forms.tail = {.y = m.d, .dtype = m.output, .rows = m.rows, .columns = m.columns};
  forms.weight = &args.weight;
  forms.bias = &args.bias;
  return MakeLinearOp(ForwardName(args), forms, std::move(work), scratch, builder);
}

CudaOpOr MakeCudaOp(const LinearGradInputArgs& args, CudaOpBuilder& builder) {
  const DType input = MultipliedAs(args.grad_y, args.full_precision);
  ScratchPieces scratch(builder);
  LinearWork work{ProductOperand(args.grad_y, input, scratch, builder)};
  LinearForms forms;
  BlasMatmul& m = forms.fused;
  m.rows = args.grad_y.rows();
  m.inner = args.grad_y.columns();
  m.columns = args.grad_x.columns();
  m.transpose_b = true;
  m.a_stride = m.b_stride = m.inner;
  m.d_stride = m.columns;
  m.input = input;
  m.output = args.grad_x.dtype;
  m.a = work.x.at();
  VITSCALE_ASSIGN_OR_RETURN(m.b, builder.weights().Weight(args.weight, input, m.inner, builder));
  m.d = builder.Memory<void>(args.grad_x);
  m.aux = builder.Memory<void>(args.pre_activation);
  const bool gelu = args.pre_activation.present();
  if (args.activation.present()) {  // last: it may take the place of the pre-activation
    work.gelu = {m.aux, builder.Memory<void>(args.activation), m.output, args.grad_x.elements()};
  }
  m.epilogue = gelu ? BlasEpilogue::kGeluGrad : BlasEpilogue::kNone;
  forms.tail = {.kind = gelu ? TailKind::kGeluGrad : TailKind::kPlain,
                .pre = m.aux,
                .y = m.d,
                .dtype = m.output,
                .rows = m.rows,
                .columns = m.columns};
  std::string name = gelu ? "product and GELU's gradient" : "product";
  if (work.gelu.has_value()) name += " and GELU again";
  return MakeLinearOp(std::move(name), forms, std::move(work), scratch, builder);
}

}  // namespace vitscale::cuda
