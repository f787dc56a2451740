// Checks of attention and pooling ops.

#include "absl/strings/str_cat.h"
#include "kernels/op_checker.h"

namespace vitscale {
namespace {

constexpr int64_t kMaxHeadDim = 256;

// batch, tokens, heads, and a width that the heads divide into a head dim that the kernels have.
void Heads(int64_t batch, int64_t tokens, int64_t heads, int64_t width, OpChecker& c) {
  c.BatchInGroup(batch);
  c.Positive(tokens, "tokens");
  c.Positive(heads, "heads");
  if (!c.ok()) return;
  c.Require(width % heads == 0,
            absl::StrCat("width is ", width, ", want a multiple of heads, ", heads));
  const int64_t head_dim = width / heads;
  c.Require(head_dim % 8 == 0 && head_dim <= kMaxHeadDim,
            absl::StrCat("head dim is ", head_dim, ", want a multiple of 8 up to ", kMaxHeadDim));
}

// x [batch * tokens, width] beside y [batch, width].
void Pooling(const TensorView& x, absl::string_view x_name, const TensorView& y,
             absl::string_view y_name, int64_t batch, int64_t tokens, OpChecker& c) {
  c.BatchInGroup(batch);
  c.Positive(tokens, "tokens");
  c.Is(x, x_name, kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  c.Is(x, x_name, kComputeOrF32, {batch * tokens, kAny});
  c.Is(y, y_name, kComputeOrF32, {batch, x.shape[1]});
}

}  // namespace

void Check(const SelfAttentionArgs& a, OpChecker& c) {
  c.Is(a.out, "out", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t width = a.out.shape[1];
  Heads(a.batch, a.tokens, a.heads, width, c);
  const int64_t rows = a.batch * a.tokens;
  c.Is(a.out, "out", kComputeOrF32, {rows, width});
  c.Is(a.qkv, "qkv", Only(a.out.dtype), {rows, 3 * width});
  c.Maybe(a.log_sum_exp, "log_sum_exp", kOnlyF32, {a.batch, a.heads, a.tokens});
}

void Check(const SelfAttentionGradArgs& a, OpChecker& c) {
  c.Is(a.grad_out, "grad_out", kComputeOrF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t width = a.grad_out.shape[1];
  Heads(a.batch, a.tokens, a.heads, width, c);
  const int64_t rows = a.batch * a.tokens;
  const DTypes compute = Only(a.grad_out.dtype);
  c.Is(a.grad_out, "grad_out", compute, {rows, width});
  c.Is(a.qkv, "qkv", compute, {rows, 3 * width});
  c.Is(a.out, "out", compute, {rows, width});
  c.Is(a.log_sum_exp, "log_sum_exp", kOnlyF32, {a.batch, a.heads, a.tokens});
  c.Is(a.grad_qkv, "grad_qkv", compute, {rows, 3 * width});
}

void Check(const PoolAttentionArgs& a, OpChecker& c) {
  c.Is(a.query, "query", kOnlyF32, {1, kAny});
  if (!c.ok()) return;
  const int64_t width = a.query.shape[1];
  Heads(a.batch, a.tokens, a.heads, width, c);
  c.Is(a.key_value, "key_value", kComputeOrF32, {a.batch * a.tokens, 2 * width});
  c.Is(a.out, "out", kComputeOrF32, {a.batch, width});
  c.Maybe(a.log_sum_exp, "log_sum_exp", kOnlyF32, {a.batch, a.heads});
}

void Check(const PoolAttentionGradArgs& a, OpChecker& c) {
  c.Is(a.query, "query", kOnlyF32, {1, kAny});
  if (!c.ok()) return;
  const int64_t width = a.query.shape[1];
  Heads(a.batch, a.tokens, a.heads, width, c);
  c.Is(a.grad_out, "grad_out", kComputeOrF32, {a.batch, width});
  c.Is(a.key_value, "key_value", kComputeOrF32, {a.batch * a.tokens, 2 * width});
  c.Is(a.out, "out", kComputeOrF32, {a.batch, width});
  c.Is(a.log_sum_exp, "log_sum_exp", kOnlyF32, {a.batch, a.heads});
  c.Is(a.grad_query, "grad_query", kOnlyF32, {1, width});
  c.Is(a.grad_key_value, "grad_key_value", Only(a.key_value.dtype),
       {a.batch * a.tokens, 2 * width});
}

void Check(const MeanPoolArgs& a, OpChecker& c) {
  Pooling(a.x, "x", a.y, "y", a.batch, a.tokens, c);
}
void Check(const MeanPoolGradArgs& a, OpChecker& c) {
  Pooling(a.grad_x, "grad_x", a.grad_y, "grad_y", a.batch, a.tokens, c);
}
void Check(const SelectTokenArgs& a, OpChecker& c) {
  Pooling(a.x, "x", a.y, "y", a.batch, a.tokens, c);
  c.Require(a.token >= 0 && a.token < a.tokens,
            absl::StrCat("token is ", a.token, ", want 0 to ", a.tokens - 1));
}
void Check(const SelectTokenGradArgs& a, OpChecker& c) {
  Pooling(a.grad_x, "grad_x", a.grad_y, "grad_y", a.batch, a.tokens, c);
  c.Require(a.token >= 0 && a.token < a.tokens,
            absl::StrCat("token is ", a.token, ", want 0 to ", a.tokens - 1));
}

}  // namespace vitscale
