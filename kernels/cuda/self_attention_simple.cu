// SelfAttention and its backward without tensor cores: f32, and head dims that self_attention.cu
// has no registers for. Correct, not fast. Contract: kernels/ops.h. Reference:
// kernels/cpu/self_attention.cc.
//
//   pass           a warp owns       reads from memory, the rest from cache   writes
//   forward        a query row       q, k, v                                  out, log_sum_exp
//   grad query     a query row       q, k, v, grad_out                        grad_q, delta
//   grad key       a key row         q, k, v, grad_out, delta                 grad_k, grad_v
//
// 32 rows of the other side at a time: first a lane has the score of one of them, then it has a few
// columns of the result, and weights go round by Shuffle.

#include <cmath>
#include <limits>

#include "kernels/base/status.h"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/launch.h"

namespace vitscale::cuda {
namespace {

constexpr int kHeadDimMax = 256;
constexpr int kColumns = kHeadDimMax / kWarpLanes;  // of a lane
constexpr int kWarps = 4;                           // of a block: as many rows
constexpr float kLowest = -std::numeric_limits<float>::infinity();

template <typename T>
struct ForwardArgs {
  const T* qkv;        // [batch * tokens, 3 * width]
  T* out;              // [batch * tokens, width]
  float* log_sum_exp;  // [batch, heads, tokens], may be null
};
template <typename T>
struct GradArgs {
  const T* grad_out;         // [batch * tokens, width]
  const T* qkv;              // [batch * tokens, 3 * width]
  const float* log_sum_exp;  // [batch, heads, tokens]
  T* grad_qkv;               // [batch * tokens, 3 * width]
  float* delta;              // [batch, heads, tokens], workspace
};

// ---- parts --------------------------------------------------------------------------------------

template <typename T>
__device__ float Dot(const T* a, const T* b, int count) {
  float sum = 0;
  for (int c = 0; c < count; c += 4) {
    const Vec<T, 4> x = LoadVec<4>(a + c), y = LoadVec<4>(b + c);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += ToFloat(x[i]) * ToFloat(y[i]);
  }
  return sum;
}

// sum += the `weight` of each lane times row first + lane of `rows`.
template <typename T>
__device__ void AddRows(float weight, const HeadRows<const T>& rows, int first,
                        const AttentionShape& shape, float (&sum)[kColumns]) {
  for (int i = 0; i < kWarpLanes && first + i < shape.tokens; ++i) {
    const float by = Shuffle(weight, i);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = c * kWarpLanes + Lane();
      if (column < shape.head_dim) sum[c] += by * ToFloat(rows.Row(first + i)[column]);
    }
  }
}

template <typename T>
__device__ void WriteRow(const float (&values)[kColumns], float by, int head_dim, T* to) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = c * kWarpLanes + Lane();
    if (column < head_dim) FromFloat(values[c] * by, to[column]);
  }
}

__device__ inline int64_t IndexOfRow(const AttentionShape& shape, const AttentionPlace& place,
                                     int row) {
  return (place.image * shape.heads + place.head) * shape.tokens + row;
}

// ---- forward ------------------------------------------------------------------------------------

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    Forward(ForwardArgs<T> args, AttentionShape shape) {
  const AttentionPlace place = PlaceOfBlock(shape);
  const int row = place.tile * kWarps + Warp();
  if (row >= shape.tokens) return;
  const HeadRows<const T> q = HeadPart(args.qkv, shape, place, 3, 0),
                          k = HeadPart(args.qkv, shape, place, 3, 1),
                          v = HeadPart(args.qkv, shape, place, 3, 2);
  float max = kLowest, sum = 0, out[kColumns] = {};
  for (int first = 0; first < shape.tokens; first += kWarpLanes) {
    const int key = first + Lane();
    const bool valid = key < shape.tokens;
    const float score = valid ? Dot(q.Row(row), k.Row(key), shape.head_dim) * shape.scale : kLowest;
    const float most = WarpMax(score), before = max;
    max = most > max ? most : max;
    const float weight = valid ? expf(score - max) : 0, keep = expf(before - max);
    sum = sum * keep + WarpSum(weight);
    for (float& value : out) value *= keep;
    AddRows(weight, v, first, shape, out);
  }
  WriteRow(out, 1.0f / sum, shape.head_dim, HeadPart(args.out, shape, place, 1, 0).Row(row));
  if (args.log_sum_exp != nullptr && Lane() == 0) {
    args.log_sum_exp[IndexOfRow(shape, place, row)] = max + logf(sum);
  }
}

// ---- backward -----------------------------------------------------------------------------------

// One head's operands of backward.
template <typename T>
struct GradRows {
  HeadRows<const T> q, k, v, grad_out;
  __device__ GradRows(const GradArgs<T>& args, const AttentionShape& shape,
                      const AttentionPlace& place)
      : q(HeadPart(args.qkv, shape, place, 3, 0)),
        k(HeadPart(args.qkv, shape, place, 3, 1)),
        v(HeadPart(args.qkv, shape, place, 3, 2)),
        grad_out(HeadPart(args.grad_out, shape, place, 1, 0)) {}
};

struct Weight {
  float p, grad_p;
};
// Of a query and a key.
template <typename T>
__device__ Weight WeightOf(const GradRows<T>& rows, int query, int key, float log_sum_exp,
                           const AttentionShape& shape) {
  const float score = Dot(rows.q.Row(query), rows.k.Row(key), shape.head_dim) * shape.scale;
  return {expf(score - log_sum_exp),
          Dot(rows.grad_out.Row(query), rows.v.Row(key), shape.head_dim)};
}

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    GradQuery(GradArgs<T> args, AttentionShape shape) {
  const AttentionPlace place = PlaceOfBlock(shape);
  const int row = place.tile * kWarps + Warp();
  if (row >= shape.tokens) return;
  const GradRows<T> rows(args, shape, place);
  const float log_sum_exp = args.log_sum_exp[IndexOfRow(shape, place, row)];
  float delta = 0;
  for (int key = Lane(); key < shape.tokens; key += kWarpLanes) {
    const Weight w = WeightOf(rows, row, key, log_sum_exp, shape);
    delta += w.p * w.grad_p;
  }
  delta = WarpSum(delta);
  float grad_q[kColumns] = {};
  for (int first = 0; first < shape.tokens; first += kWarpLanes) {
    const int key = first + Lane();
    float grad_score = 0;
    if (key < shape.tokens) {
      const Weight w = WeightOf(rows, row, key, log_sum_exp, shape);
      grad_score = w.p * (w.grad_p - delta);
    }
    AddRows(grad_score, rows.k, first, shape, grad_q);
  }
  WriteRow(grad_q, shape.scale, shape.head_dim,
           HeadPart(args.grad_qkv, shape, place, 3, 0).Row(row));
  if (Lane() == 0) args.delta[IndexOfRow(shape, place, row)] = delta;
}

template <typename T>
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    GradKeyValue(GradArgs<T> args, AttentionShape shape) {
  const AttentionPlace place = PlaceOfBlock(shape);
  const int row = place.tile * kWarps + Warp();
  if (row >= shape.tokens) return;
  const GradRows<T> rows(args, shape, place);
  float grad_k[kColumns] = {}, grad_v[kColumns] = {};
  for (int first = 0; first < shape.tokens; first += kWarpLanes) {
    const int query = first + Lane();
    float p = 0, grad_score = 0;
    if (query < shape.tokens) {
      const int64_t at = IndexOfRow(shape, place, query);
      const Weight w = WeightOf(rows, query, row, args.log_sum_exp[at], shape);
      p = w.p;
      grad_score = w.p * (w.grad_p - args.delta[at]);
    }
    AddRows(grad_score, rows.q, first, shape, grad_k);
    AddRows(p, rows.grad_out, first, shape, grad_v);
  }
  WriteRow(grad_k, shape.scale, shape.head_dim,
           HeadPart(args.grad_qkv, shape, place, 3, 1).Row(row));
  WriteRow(grad_v, 1.0f, shape.head_dim, HeadPart(args.grad_qkv, shape, place, 3, 2).Row(row));
}

// ---- launcher -----------------------------------------------------------------------------------

struct Blocks {
  AttentionShape shape;
  dim3 grid, block;
  Blocks(const AttentionShape& of_op, int64_t batch) : shape(of_op), block(kWarps * kWarpLanes) {
    shape.tiles = TilesOf(shape.tokens, kWarps);
    grid = dim3(static_cast<unsigned>(batch * shape.heads * shape.tiles));
  }
};

template <typename T>
CudaOpOr Make(const SelfAttentionArgs& args, CudaOpBuilder& builder, const AttentionShape& shape,
              const std::string& why) {
  const ForwardArgs<T> to{builder.Memory<const T>(args.qkv), builder.Memory<T>(args.out),
                          builder.Memory<float>(args.log_sum_exp)};
  const Blocks blocks(shape, args.batch);
  return MakeOp(absl::StrCat("simple: ", why), [=](const RunContext& context) {
    return Launch(Forward<T>, blocks.grid, blocks.block, 0, context.stream, to, blocks.shape);
  });
}

template <typename T>
CudaOpOr Make(const SelfAttentionGradArgs& args, CudaOpBuilder& builder,
              const AttentionShape& shape, const std::string& why) {
  const int64_t delta_bytes = args.batch * args.heads * args.tokens * 4;
  const GradArgs<T> to{builder.Memory<const T>(args.grad_out), builder.Memory<const T>(args.qkv),
                       builder.Memory<const float>(args.log_sum_exp),
                       builder.Memory<T>(args.grad_qkv),
                       static_cast<float*>(builder.Scratch(delta_bytes))};
  const Blocks blocks(shape, args.batch);
  return MakeOp(absl::StrCat("simple: ", why), [=](const RunContext& context) {
    VITSCALE_RETURN_IF_ERROR(
        Launch(GradQuery<T>, blocks.grid, blocks.block, 0, context.stream, to, blocks.shape));
    return Launch(GradKeyValue<T>, blocks.grid, blocks.block, 0, context.stream, to, blocks.shape);
  });
}

}  // namespace

CudaOpOr SimpleSelfAttention(const SelfAttentionArgs& args, CudaOpBuilder& builder,
                             const AttentionShape& shape, const std::string& why) {
  return args.out.dtype == DType::kF32 ? Make<float>(args, builder, shape, why)
                                       : Make<Bf16>(args, builder, shape, why);
}
CudaOpOr SimpleSelfAttention(const SelfAttentionGradArgs& args, CudaOpBuilder& builder,
                             const AttentionShape& shape, const std::string& why) {
  return args.out.dtype == DType::kF32 ? Make<float>(args, builder, shape, why)
                                       : Make<Bf16>(args, builder, shape, why);
}

}  // namespace vitscale::cuda
