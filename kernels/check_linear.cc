// Checks of the linear and normalisation ops.

#include "absl/strings/str_cat.h"
#include "kernels/op_checker.h"

namespace vitscale {
namespace {

// Without full_precision matmul inputs of one op are of one dtype.
void SameInputDType(const TensorView& a, const TensorView& b, absl::string_view b_name,
                    bool full_precision, OpChecker& c) {
  c.Require(full_precision || a.dtype == b.dtype,
            absl::StrCat(b_name, " is ", DTypeName(b.dtype), ", want ", DTypeName(a.dtype),
                         " like the other matmul input"));
}

void NormParameters(const TensorView& gamma, const TensorView& beta, int64_t width, OpChecker& c) {
  c.Is(gamma, "gamma", kOnlyF32, {width});
  c.Is(beta, "beta", kOnlyF32, {width});
}

void NormStatistics(const TensorView& mean, const TensorView& inv_std, int64_t rows, OpChecker& c) {
  c.Maybe(mean, "mean", kOnlyF32, {rows});
  c.Maybe(inv_std, "inv_std", kOnlyF32, {rows});
  c.Require(mean.present() == inv_std.present(),
            "one of mean and inv_std is absent, want both or neither");
}

}  // namespace

void Check(const LinearArgs& a, OpChecker& c) {
  c.Is(a.x, "x", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t rows = a.x.shape[0], in = a.x.shape[1];
  const int64_t out = c.PartsWidth(a.weight, "weight", in, Arena::kParameters);
  if (!c.ok()) return;
  c.BiasParts(a.bias, "bias", a.weight, Arena::kParameters);
  c.RowsInGroup(rows, "x");
  const bool residual = a.epilogue == LinearEpilogue::kResidual;
  const bool gelu = a.epilogue == LinearEpilogue::kGelu;
  if (residual || gelu) {
    c.Is(a.y, "y", residual ? kOnlyF32 : kComputeOrF32, {rows, out});
  } else {
    c.IsMaybePadded(a.y, "y", kComputeOrF32, {rows, out}, a.weight);
  }
  c.Require(residual || !a.residual.present(),
            "residual is present, want absent: no such epilogue");
  c.Require(gelu || !a.pre_activation.present(),
            "pre_activation is present, want absent: no such epilogue");
  if (residual) c.Is(a.residual, "residual", kOnlyF32, {rows, out});
  if (gelu) c.Maybe(a.pre_activation, "pre_activation", Only(a.y.dtype), {rows, out});
}

void Check(const LinearGradInputArgs& a, OpChecker& c) {
  c.Is(a.grad_y, "grad_y", kComputeOrF32, {kAny, kAny});
  c.Is(a.grad_x, "grad_x", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t rows = a.grad_y.shape[0], in = a.grad_x.shape[1];
  const int64_t out = c.PartsWidth(a.weight, "weight", in, Arena::kParameters);
  if (!c.ok()) return;
  c.RowsInGroup(rows, "grad_y");
  c.IsMaybePadded(a.grad_y, "grad_y", kComputeOrF32, {rows, out}, a.weight);
  c.Is(a.grad_x, "grad_x", kComputeOrF32, {rows, in});
  c.Maybe(a.pre_activation, "pre_activation", Only(a.grad_x.dtype), {rows, in});
  c.Maybe(a.activation, "activation", Only(a.grad_x.dtype), {rows, in});
  c.Require(a.pre_activation.present() || !a.activation.present(),
            "activation is present, want absent: pre_activation is");
}

void Check(const LinearGradWeightArgs& a, OpChecker& c) {
  c.OutsideGroups();
  c.Is(a.x, "x", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t rows = a.x.shape[0], in = a.x.shape[1];
  const int64_t out = c.PartsWidth(a.grad_weight, "grad_weight", in, Arena::kGradients);
  if (!c.ok()) return;
  c.BiasParts(a.grad_bias, "grad_bias", a.grad_weight, Arena::kGradients);
  c.IsMaybePadded(a.grad_y, "grad_y", kComputeOrF32, {rows, out}, a.grad_weight);
  SameInputDType(a.x, a.grad_y, "grad_y", a.full_precision, c);
}

void Check(const LayerNormArgs& a, OpChecker& c) {
  c.Is(a.x, "x", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t rows = a.x.shape[0], width = a.x.shape[1];
  c.RowsInGroup(rows, "x");
  NormParameters(a.gamma, a.beta, width, c);
  c.Require(a.epsilon >= 0, absl::StrCat("epsilon is ", a.epsilon, ", want at least 0"));
  c.Is(a.y, "y", kComputeOrF32, {rows, width});
  NormStatistics(a.mean, a.inv_std, rows, c);
}

void Check(const ResidualLayerNormArgs& a, OpChecker& c) {
  c.Is(a.x, "x", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t rows = a.x.shape[0], width = a.x.shape[1];
  c.RowsInGroup(rows, "x");
  c.Is(a.delta, "delta", kComputeOrF32, {rows, width});
  c.Is(a.sum, "sum", Only(a.x.dtype), {rows, width});
  NormParameters(a.gamma, a.beta, width, c);
  c.Require(a.epsilon >= 0, absl::StrCat("epsilon is ", a.epsilon, ", want at least 0"));
  c.Is(a.y, "y", kComputeOrF32, {rows, width});
  NormStatistics(a.mean, a.inv_std, rows, c);
}

void Check(const LayerNormGradArgs& a, OpChecker& c) {
  c.Is(a.grad_y, "grad_y", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t rows = a.grad_y.shape[0], width = a.grad_y.shape[1];
  c.RowsInGroup(rows, "grad_y");
  c.Is(a.x, "x", kComputeOrF32, {rows, width});
  c.Is(a.mean, "mean", kOnlyF32, {rows});
  c.Is(a.inv_std, "inv_std", kOnlyF32, {rows});
  c.Is(a.gamma, "gamma", kOnlyF32, {width});
  c.Maybe(a.grad_residual, "grad_residual", kOnlyF32, {rows, width});
  c.Is(a.grad_x, "grad_x", kOnlyF32, {rows, width});
  c.Maybe(a.grad_x_cast, "grad_x_cast", kComputeOrF32, {rows, width});
  c.Is(a.grad_gamma, "grad_gamma", kOnlyF32, {width});
  c.Is(a.grad_beta, "grad_beta", kOnlyF32, {width});
  c.Maybe(a.y, "y", kComputeOrF32, {rows, width});
  c.Maybe(a.beta, "beta", kOnlyF32, {width});
  c.Require(a.y.present() == a.beta.present(), "one of y and beta is absent, want both or neither");
}

}  // namespace vitscale
