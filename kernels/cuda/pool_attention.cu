// PoolAttention and its backward on CUDA: one query per head, the same for every image. Contract:
// PoolAttentionArgs in kernels/ops.h. Reference: kernels/cpu/pool_attention.cc.
//
//   variant    memory traffic per image, bf16 (f32: twice), width w
//   forward    reads 4 w tokens B (k and v once), writes 2 w B
//   backward   reads 4 w tokens B, writes 4 w tokens B; 16 heads tokens B of weights through the L2
//              cache; a share of grad_query, 4 w B, written and read
//
// Bound by memory: 4 FLOP (backward 12) per k and v pair of 4 B. B/16 at batch 1,024 (w 768, 196
// tokens): 617 MB forward, 184 us at 3.35 TB/s; twice that backward.
//
// A block is one head of one image. A group of 2 to 32 lanes takes a token, 8 columns a lane, so a
// token's k and v are one 16-byte load per lane each, and k and v meet in registers: every group
// keeps its own running softmax, and groups are merged once at the end, in one order.
//
// Backward reads k once too: grad_query = scale (sum of p dP k - delta sum of p k), with
// delta = sum of p dP known only at the end. grad_query over the images: a share per image, then an
// ordered sum.

#include <cmath>

#include "kernels/base/status.h"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/column_sum.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"

namespace vitscale::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kLaneColumns = 8;
constexpr int kInFlight = 4;  // tokens of a group whose loads are under way together
constexpr int kHeadDimMax = 256;
constexpr float kLowest = -3.0e38f;  // finite, so that what never saw a token weighs 0, not NaN

using Columns = Floats<kLaneColumns>;

// f32 or bf16.
template <typename Pointer>
struct AnyFloats {
  Pointer at = nullptr;
  bool bf16 = false;
};
__device__ inline Columns LoadColumns(const AnyFloats<const void*>& from, int64_t i) {
  return from.bf16 ? LoadFloats<kLaneColumns>(static_cast<const Bf16*>(from.at) + i)
                   : LoadFloats<kLaneColumns>(static_cast<const float*>(from.at) + i);
}

template <typename T>
struct ForwardArgs {
  const float* query;    // [width]
  const T* key_value;    // [batch * tokens, 2 * width]
  AnyFloats<void*> out;  // [batch, width]
  float* log_sum_exp;    // [batch, heads], may be null
};
template <typename T>
struct BackwardArgs {
  AnyFloats<const void*> grad_out;  // [batch, width]
  const float* query;               // [width]
  const T* key_value;               // [batch * tokens, 2 * width]
  const float* log_sum_exp;         // [batch, heads]
  T* grad_key_value;                // [batch * tokens, 2 * width]
  Vec<float, 2>* weights;           // [batch, heads, tokens]: p, dP; workspace
  float* shares;                    // [batch, width] of grad_query; workspace
};

// ---- groups of lanes ----------------------------------------------------------------------------

// Which tokens and columns a lane has. kLanes lanes, a power of two, are a group.
template <int kLanes>
struct Group {
  static constexpr int kCount = kWarps * kWarpLanes / kLanes;  // of a block
  int index = static_cast<int>(threadIdx.x) / kLanes;
  int column = Lane() % kLanes * kLaneColumns;
  bool has_columns;
  __device__ explicit Group(const AttentionShape& shape) : has_columns(column < shape.head_dim) {}
  // The i-th of kInFlight tokens from `first` on.
  __device__ int Token(int first, int i) const { return first + i * kCount + index; }
};

__device__ inline float DotColumns(const Columns& a, const Columns& b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) sum += a[i] * b[i];
  return sum;
}
__device__ inline void AddColumns(float by, const Columns& x, Columns& sum) {
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) sum[i] += by * x[i];
}

// The sum over the groups of the warp.
template <int kLanes>
__device__ inline float SumOverGroups(float value) {
#pragma unroll
  for (int mask = kWarpLanes / 2; mask >= kLanes; mask /= 2) value += ShuffleXor(value, mask);
  return value;
}

using WarpColumns = SharedArray<float, kWarps * kHeadDimMax>;  // [warp, column]

// The sum over the groups of the warp of `x * by`, to the warp's row.
template <int kLanes>
__device__ inline void StoreWarpColumns(const Group<kLanes>& group, const Columns& x, float by,
                                        WarpColumns& to) {
  Columns sum;
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) sum[i] = SumOverGroups<kLanes>(x[i] * by);
  if (Lane() >= kLanes) return;
#pragma unroll
  for (int i = 0; i < kLaneColumns; i += 4) {
    to.Store(Warp() * kHeadDimMax + group.column + i,
             Vec<float, 4>{{sum[i], sum[i + 1], sum[i + 2], sum[i + 3]}});
  }
}

// This lane's columns of k and v of the group's tokens; zeros beyond the last token and column.
template <typename T, int kLanes>
__device__ inline void LoadTokens(const Group<kLanes>& group, const HeadRows<const T>& keys,
                                  const HeadRows<const T>& values, int first,
                                  const AttentionShape& shape, Columns (&k)[kInFlight],
                                  Columns (&v)[kInFlight]) {
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    k[i] = v[i] = ZeroFloats<kLaneColumns>();
    const int token = group.Token(first, i);
    if (!group.has_columns || token >= shape.tokens) continue;
    k[i] = LoadFloats<kLaneColumns>(keys.Row(token) + group.column);
    v[i] = LoadFloats<kLaneColumns>(values.Row(token) + group.column);
  }
}

// Groups of fewer lanes than columns / 8 leave columns out; more idle.
constexpr int GroupLanes(int head_dim) {
  int lanes = 2;
  while (lanes * kLaneColumns < head_dim) lanes *= 2;
  return lanes;
}

// ---- forward ------------------------------------------------------------------------------------

struct ForwardShared {
  SharedArray<float, kWarps> max, sum;
  WarpColumns out;
};

// What a group has seen.
struct Running {
  float max = kLowest, sum = 0;
  Columns out = ZeroFloats<kLaneColumns>();  // not yet divided by sum
};

template <typename T, int kLanes>
__device__ inline void AddTokens(const Group<kLanes>& group, const HeadRows<const T>& keys,
                                 const HeadRows<const T>& values, const Columns& query, int first,
                                 const AttentionShape& shape, Running& running) {
  Columns k[kInFlight], v[kInFlight];
  LoadTokens(group, keys, values, first, shape, k, v);
  float score[kInFlight], max = running.max;
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    score[i] = WarpSum<kLanes>(DotColumns(query, k[i])) * shape.scale;
    if (group.Token(first, i) < shape.tokens) max = fmaxf(max, score[i]);
  }
  const float keep = FastExp2Flushed((running.max - max) * kLog2E);
  running.max = max;
  running.sum *= keep;
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) running.out[i] *= keep;
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    if (group.Token(first, i) >= shape.tokens) continue;
    const float weight = FastExp2Flushed((score[i] - max) * kLog2E);
    running.sum += weight;
    AddColumns(weight, v[i], running.out);
  }
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    Forward(ForwardArgs<T> args, AttentionShape shape) {
  auto& shared = SharedMemory<ForwardShared>();
  const AttentionPlace place = PlaceOfBlock(shape);
  const Group<kLanes> group(shape);
  const int head_column = place.head * shape.head_dim;
  const Columns query = group.has_columns
                            ? LoadFloats<kLaneColumns>(args.query + head_column + group.column)
                            : ZeroFloats<kLaneColumns>();
  const HeadRows<const T> keys = HeadPart(args.key_value, shape, place, 2, 0),
                          values = HeadPart(args.key_value, shape, place, 2, 1);
  Running running;
  for (int first = 0; first < shape.tokens; first += kInFlight * Group<kLanes>::kCount) {
    AddTokens(group, keys, values, query, first, shape, running);
  }
  const float warp_max = WarpMax(running.max);
  const float keep = FastExp2Flushed((running.max - warp_max) * kLog2E);
  const float warp_sum = SumOverGroups<kLanes>(running.sum * keep);
  StoreWarpColumns(group, running.out, keep, shared.out);
  if (Lane() == 0) {
    shared.max[Warp()] = warp_max;
    shared.sum[Warp()] = warp_sum;
  }
  BlockBarrier();
  float max = kLowest, sum = 0, of_warp[kWarps];
  for (int warp = 0; warp < kWarps; ++warp) max = fmaxf(max, shared.max[warp]);
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    of_warp[warp] = FastExp2Flushed((shared.max[warp] - max) * kLog2E);
    sum += shared.sum[warp] * of_warp[warp];
  }
  for (int c = static_cast<int>(threadIdx.x); c < shape.head_dim; c += kWarps * kWarpLanes) {
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      total += shared.out[warp * kHeadDimMax + c] * of_warp[warp];
    }
    const int64_t at = place.image * shape.width() + head_column + c;
    if (args.out.bf16) {
      FromFloat(total / sum, static_cast<Bf16*>(args.out.at)[at]);
    } else {
      static_cast<float*>(args.out.at)[at] = total / sum;
    }
  }
  if (args.log_sum_exp != nullptr && threadIdx.x == 0) {
    args.log_sum_exp[place.image * shape.heads + place.head] = max + logf(sum);
  }
}

// ---- backward -----------------------------------------------------------------------------------

struct BackwardShared {
  SharedArray<float, kWarps> delta;
  WarpColumns p_grad_p_key, p_key;
};

// What a group has seen.
struct RunningGrad {
  float delta = 0;                                    // sum of p dP
  Columns p_grad_p_key = ZeroFloats<kLaneColumns>();  // sum of p dP k
  Columns p_key = ZeroFloats<kLaneColumns>();         // sum of p k
};

// Sums over some tokens, whose p and dP are put into `weights`.
template <typename T, int kLanes>
__device__ inline void AddTokens(const Group<kLanes>& group, const HeadRows<const T>& keys,
                                 const HeadRows<const T>& values, const Columns& query,
                                 const Columns& grad_out, float log_sum_exp, int first,
                                 const AttentionShape& shape, Vec<float, 2>* weights,
                                 RunningGrad& running) {
  Columns k[kInFlight], v[kInFlight];
  LoadTokens(group, keys, values, first, shape, k, v);
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    const float score = WarpSum<kLanes>(DotColumns(query, k[i])) * shape.scale;
    const float grad_p = WarpSum<kLanes>(DotColumns(grad_out, v[i]));
    const int token = group.Token(first, i);
    if (token >= shape.tokens) continue;
    const float p = FastExp2Flushed((score - log_sum_exp) * kLog2E);
    if (group.column == 0) weights[token] = Vec<float, 2>{{p, grad_p}};
    running.delta += p * grad_p;
    AddColumns(p * grad_p, k[i], running.p_grad_p_key);
    AddColumns(p, k[i], running.p_key);
  }
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    Backward(BackwardArgs<T> args, AttentionShape shape) {
  auto& shared = SharedMemory<BackwardShared>();
  const AttentionPlace place = PlaceOfBlock(shape);
  const Group<kLanes> group(shape);
  const int head_column = place.head * shape.head_dim;
  const int64_t row = place.image * shape.width() + head_column;  // of [batch, width]
  Columns query = ZeroFloats<kLaneColumns>(), grad_out = query;
  if (group.has_columns) {
    query = LoadFloats<kLaneColumns>(args.query + head_column + group.column);
    grad_out = LoadColumns(args.grad_out, row + group.column);
  }
  const int64_t head = place.image * shape.heads + place.head;
  Vec<float, 2>* weights = args.weights + head * shape.tokens;
  const HeadRows<const T> keys = HeadPart(args.key_value, shape, place, 2, 0),
                          values = HeadPart(args.key_value, shape, place, 2, 1);
  constexpr int kStep = kInFlight * Group<kLanes>::kCount;
  RunningGrad running;
  for (int first = 0; first < shape.tokens; first += kStep) {
    AddTokens(group, keys, values, query, grad_out, args.log_sum_exp[head], first, shape, weights,
              running);
  }
  const float warp_delta = SumOverGroups<kLanes>(running.delta);
  StoreWarpColumns(group, running.p_grad_p_key, 1.0f, shared.p_grad_p_key);
  StoreWarpColumns(group, running.p_key, 1.0f, shared.p_key);
  if (Lane() == 0) shared.delta[Warp()] = warp_delta;
  BlockBarrier();  // of the weights in global memory, too
  float delta = 0;
  for (int warp = 0; warp < kWarps; ++warp) delta += shared.delta[warp];
  for (int c = static_cast<int>(threadIdx.x); c < shape.head_dim; c += kWarps * kWarpLanes) {
    float p_grad_p_key = 0, p_key = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      p_grad_p_key += shared.p_grad_p_key[warp * kHeadDimMax + c];
      p_key += shared.p_key[warp * kHeadDimMax + c];
    }
    args.shares[row + c] = (p_grad_p_key - delta * p_key) * shape.scale;
  }
  if (!group.has_columns) return;
  const HeadRows<T> grad_keys = HeadPart(args.grad_key_value, shape, place, 2, 0),
                    grad_values = HeadPart(args.grad_key_value, shape, place, 2, 1);
#pragma unroll 4
  for (int token = group.index; token < shape.tokens; token += Group<kLanes>::kCount) {
    const Vec<float, 2> weight = weights[token];
    const float grad_score = weight[0] * (weight[1] - delta) * shape.scale;
    Columns grad_k = ZeroFloats<kLaneColumns>(), grad_v = grad_k;
    AddColumns(grad_score, query, grad_k);
    AddColumns(weight[0], grad_out, grad_v);
    StoreFloats(grad_keys.Row(token) + group.column, grad_k);
    StoreFloats(grad_values.Row(token) + group.column, grad_v);
  }
}

// ---- launcher -----------------------------------------------------------------------------------

struct PoolLaunch {
  AttentionShape shape;
  dim3 grid, block;
  int64_t batch;
  std::string variant;
};
template <typename Args>
absl::StatusOr<PoolLaunch> Plan(const Args& args) {
  VITSCALE_RETURN_IF_ERROR(CheckAttentionSize(args.batch, args.tokens, args.heads));
  PoolLaunch plan;
  plan.shape = ShapeOfAttention(args.tokens, args.heads, args.query.columns() / args.heads);
  plan.shape.tiles = 1;
  plan.grid = dim3(static_cast<unsigned>(args.batch * args.heads));
  plan.block = dim3(kWarps * kWarpLanes);
  plan.batch = args.batch;
  plan.variant = absl::StrCat("vector, ", GroupLanes(plan.shape.head_dim), " lanes a token");
  return plan;
}

// `call` with the lanes of a group as a constant.
template <typename Call>
absl::Status WithGroupLanes(int head_dim, Call call) {
  switch (GroupLanes(head_dim)) {
    case 2:
      return call(std::integral_constant<int, 2>());
    case 4:
      return call(std::integral_constant<int, 4>());
    case 8:
      return call(std::integral_constant<int, 8>());
    case 16:
      return call(std::integral_constant<int, 16>());
    default:
      return call(std::integral_constant<int, 32>());
  }
}

template <typename T>
CudaOpOr Make(const PoolAttentionArgs& args, CudaOpBuilder& builder, const PoolLaunch& plan) {
  const ForwardArgs<T> to{builder.Memory<const float>(args.query),
                          builder.Memory<const T>(args.key_value),
                          {builder.Memory<void>(args.out), args.out.dtype == DType::kBf16},
                          builder.Memory<float>(args.log_sum_exp)};
  return MakeOp(plan.variant, [=](const RunContext& context) {
    return WithGroupLanes(plan.shape.head_dim, [&](auto lanes) {
      return Launch(Forward<T, lanes()>, plan.grid, plan.block, sizeof(ForwardShared),
                    context.stream, to, plan.shape);
    });
  });
}

template <typename T>
CudaOpOr Make(const PoolAttentionGradArgs& args, CudaOpBuilder& builder, const PoolLaunch& plan) {
  BackwardArgs<T> to{
      {builder.Memory<const void>(args.grad_out), args.grad_out.dtype == DType::kBf16},
      builder.Memory<const float>(args.query),
      builder.Memory<const T>(args.key_value),
      builder.Memory<const float>(args.log_sum_exp),
      builder.Memory<T>(args.grad_key_value)};
  const int64_t width = args.query.columns(), weights = args.batch * args.heads * args.tokens;
  to.weights = static_cast<Vec<float, 2>*>(
      builder.Scratch(weights * sizeof(Vec<float, 2>) + args.batch * width * sizeof(float)));
  to.shares = reinterpret_cast<float*>(to.weights + weights);
  ColumnParts grad_query;
  grad_query.at[0] = builder.Memory<float>(args.grad_query);
  grad_query.columns[0] = width;
  return MakeOp(plan.variant, [=](const RunContext& context) {
    VITSCALE_RETURN_IF_ERROR(WithGroupLanes(plan.shape.head_dim, [&](auto lanes) {
      return Launch(Backward<T, lanes()>, plan.grid, plan.block, sizeof(BackwardShared),
                    context.stream, to, plan.shape);
    }));
    return LaunchShareSum(to.shares, plan.batch, grad_query, /*accumulate=*/false, context.stream);
  });
}

template <typename Args>
CudaOpOr MakeAny(const Args& args, CudaOpBuilder& builder) {
  VITSCALE_ASSIGN_OR_RETURN(const PoolLaunch plan, Plan(args));
  return args.key_value.dtype == DType::kBf16 ? Make<Bf16>(args, builder, plan)
                                              : Make<float>(args, builder, plan);
}

}  // namespace

CudaOpOr MakeCudaOp(const PoolAttentionArgs& args, CudaOpBuilder& builder) {
  return MakeAny(args, builder);
}
CudaOpOr MakeCudaOp(const PoolAttentionGradArgs& args, CudaOpBuilder& builder) {
  return MakeAny(args, builder);
}

}  // namespace vitscale::cuda
