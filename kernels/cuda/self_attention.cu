// SelfAttention on CUDA. Contract: SelfAttentionArgs in kernels/ops.h. Reference:
// kernels/cpu/self_attention.cc.
//
//   variant   chosen when                    memory traffic per head of `tokens` rows, head dim d
//   simple    f32; head dim > 128            self_attention_simple.cu
//   mma       bf16 and head dim <= 128       6 d tokens B read + 2 d tokens B written; k and v once
//                                            more from the L2 cache per 128 query rows
//   cuDNN     where mma could be, if cuDNN   the same at best; cudnn/cudnn_attention.h
//             is there, agrees and is faster
//
// mma is Dao 2023 (arXiv:2307.08691), algorithm 1: scores never leave registers. Arithmetic: 4 d
// tokens^2 FLOP a head against 8 d tokens B, so tokens / 2 FLOP/B: 98 at 196 tokens. An H100 gives
// 989 TFLOP/s to 3.35 TB/s = 295 FLOP/B: below 590 tokens the floor is memory's. B/16 at batch
// 1,024 (12 heads, 196 tokens, d 64): 1.23 GB, 368 us; its 121 GFLOP take 122 us at the dense peak.
//
// A block is 4 warps; a warp owns 32 query rows, so each fragment of k and v that it loads from
// shared memory (256 B) serves two products (8,192 FLOP): 32 FLOP/B, what 128 B/clock feed to 4,096
// FLOP/clock. sm_90: 148 to 254 registers without spills, 18 to 70 KB of shared memory, two blocks
// a multiprocessor or more. Of the last tile only as many keys are multiplied as there are, in
// steps of 16 (208 for 196 tokens), and warps without query rows do nothing but fetch.
//
// P is rounded to bf16 before it is normalised; the CPU rounds it after. Either is half
// an ulp of P.

#include <cmath>
#include <limits>

#include "kernels/base/status.h"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/cudnn/cudnn_attention.h"
#include "kernels/cuda/dialect/launch.h"

namespace vitscale::cuda {
namespace {

struct ForwardArgs {
  const Bf16* qkv;     // [batch * tokens, 3 * width]
  Bf16* out;           // [batch * tokens, width]
  float* log_sum_exp;  // [batch, heads, tokens], may be null
};

// ---- mma ----------------------------------------------------------------------------------------

constexpr float kLowest = -std::numeric_limits<float>::infinity();  // of a key that is not there
constexpr int kRowTiles = 2;                                        // of 16 query rows, per warp
constexpr int kWarpRows = kRowTiles * kMmaRows;                     // 32
constexpr int kQueryRows = kAttentionWarps * kWarpRows;             // 128, of a block

// Of a tile: as many as registers hold without spills, beside kDim columns of the output.
template <int kDim>
constexpr int kKeys = kDim < 96    ? 64
                      : kDim < 112 ? 48
                                   : 32;

template <int kDim>
using ScoreTile = FragmentC[kRowTiles][kKeys<kDim> / 8];

template <int kDim>
struct ForwardShared {
  AttentionTile<kQueryRows, kDim> queries;
  AttentionTile<kKeys<kDim>, kDim> keys[2], values[2];  // one is read while the next arrives
};

// What a warp keeps of its query rows from one tile of keys to the next.
template <int kDim>
struct Running {
  FragmentC out[kRowTiles][kDim / 8] = {};  // not yet divided by sum
  float max[kRowTiles][2];                  // of raw scores
  float sum[kRowTiles][2];                  // of this lane's columns
};

// scores = q k^T for the first `count` keys of a tile, 16 at a time.
template <int kDim>
__device__ inline void Scores(AttentionTile<kQueryRows, kDim>& queries,
                              AttentionTile<kKeys<kDim>, kDim>& keys, int count,
                              ScoreTile<kDim>& scores) {
#pragma unroll
  for (int column = 0; column < kDim; column += kMmaRows) {
    FragmentA q[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      q[m] = LoadA<kDim>(queries, Warp() * kWarpRows + m * kMmaRows, column);
    }
    MmaRow<kRowTiles, kKeys<kDim>>(
        scores, q, [&](int key) { return LoadTransposedB<kDim>(keys, key, column); }, count);
  }
}

// Keys from `count` on are not there.
template <int kDim>
__device__ inline void MaskKeys(ScoreTile<kDim>& scores, int count) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kKeys<kDim> / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (ColumnOfC(n) + e % 2 >= count) scores[m][n].v[e] = kLowest;
      }
    }
  }
}

// scores -> exp(scale * (score - max)) with the new max; what was summed before is scaled to it.
template <int kDim>
__device__ inline void Softmax(float scale_log2, int count, ScoreTile<kDim>& scores,
                               Running<kDim>& running) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float max = running.max[m][half];
#pragma unroll
      for (int n = 0; n < kKeys<kDim> / 8; ++n) {
        max = fmaxf(max, fmaxf(scores[m][n].v[2 * half], scores[m][n].v[2 * half + 1]));
      }
      max = WarpMax<4>(max);
      const float keep = FastExp2Flushed((running.max[m][half] - max) * scale_log2);
      const float shift = max * scale_log2;
      float sum = running.sum[m][half] * keep;
#pragma unroll
      for (int n = 0; n < kKeys<kDim> / 8; ++n) {
        if (n / 2 * kMmaRows >= count) break;  // as AddValues
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores[m][n].v[e] = FastExp2Flushed(scores[m][n].v[e] * scale_log2 - shift);
          sum += scores[m][n].v[e];
        }
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        running.out[m][n].v[2 * half] *= keep;
        running.out[m][n].v[2 * half + 1] *= keep;
      }
      running.max[m][half] = max;
      running.sum[m][half] = sum;
    }
  }
}

// out += P v for the first `count` keys, 16 at a time.
template <int kDim>
__device__ inline void AddValues(const ScoreTile<kDim>& weights, int count,
                                 AttentionTile<kKeys<kDim>, kDim>& values, Running<kDim>& running) {
#pragma unroll
  for (int key = 0; key < kKeys<kDim>; key += kMmaRows) {
    if (key >= count) break;
    FragmentA p[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      p[m] = RoundedToA(weights[m][key / 8], weights[m][key / 8 + 1]);
    }
    MmaRow<kRowTiles, kDim>(running.out, p,
                            [&](int column) { return LoadB<kDim>(values, key, column); });
  }
}

// Tiles of so few keys are always treated as if they were not full: registers are too short there
// for both ways.
constexpr int kKeysAlways = 32;

// One tile of keys; `count` of them are there. A full tile has no branches and no masks; one that
// is not leaves out 16 keys at a time.
template <int kDim, bool kFull>
__device__ inline void AddTile(ForwardShared<kDim>& shared, int stage, int count,
                               const AttentionShape& shape, Running<kDim>& running) {
  const int used = kFull || kKeys<kDim> <= kKeysAlways ? kKeys<kDim> : count;
  ScoreTile<kDim> scores = {};
  Scores<kDim>(shared.queries, shared.keys[stage], used, scores);
  if (!kFull && count < kKeys<kDim>) MaskKeys<kDim>(scores, count);
  Softmax<kDim>(shape.scale * kLog2E, used, scores, running);
  AddValues<kDim>(scores, used, shared.values[stage], running);
}

template <int kDim>
__device__ inline void WriteRows(ForwardShared<kDim>& shared, const ForwardArgs& args,
                                 const AttentionShape& shape, const AttentionPlace& place,
                                 const Running<kDim>& running) {
  const int first = place.tile * kQueryRows, warp_row = Warp() * kWarpRows;
  float inverse[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = WarpSum<4>(running.sum[m][half]);
      inverse[m][half] = 1.0f / sum;
      const int row = first + warp_row + RowOfC(m, half);
      if (args.log_sum_exp != nullptr && Lane() % 4 == 0 && row < shape.tokens) {
        args.log_sum_exp[(place.image * shape.heads + place.head) * shape.tokens + row] =
            running.max[m][half] * shape.scale + logf(sum);
      }
    }
  }
  BlockBarrier();  // nobody reads the queries any more
  StoreC<kRowTiles, kDim>(running.out, inverse, warp_row, shared.queries);
  BlockBarrier();
  WriteTile<kQueryRows, kDim>(shared.queries, HeadPart(args.out, shape, place, 1, 0), first, shape);
}

template <int kDim>
__global__ void __launch_bounds__(kAttentionThreads, 1)
    ForwardMma(ForwardArgs args, AttentionShape shape) {
  auto& shared = SharedMemory<ForwardShared<kDim>>();
  const AttentionPlace place = PlaceOfBlock(shape);
  const HeadRows<const Bf16> keys = HeadPart(args.qkv, shape, place, 3, 1),
                             values = HeadPart(args.qkv, shape, place, 3, 2);
  const int first = place.tile * kQueryRows;
  const auto fetch = [&](int tile) {
    CopyTile<kKeys<kDim>, kDim>(shared.keys[tile % 2], keys, tile * kKeys<kDim>, shape);
    CopyTile<kKeys<kDim>, kDim>(shared.values[tile % 2], values, tile * kKeys<kDim>, shape);
    CopyCommit();
  };
  CopyTile<kQueryRows, kDim>(shared.queries, HeadPart(args.qkv, shape, place, 3, 0), first, shape);
  fetch(0);
  Running<kDim> running;
  for (auto& max : running.max) max[0] = max[1] = kLowest;
  for (auto& sum : running.sum) sum[0] = sum[1] = 0;
  const bool has_rows = first + Warp() * kWarpRows < shape.tokens;  // of the whole warp
  const int tiles = (shape.tokens + kKeys<kDim> - 1) / kKeys<kDim>;
  for (int tile = 0; tile < tiles; ++tile) {
    CopyWait<0>();
    BlockBarrier();  // this tile is there, and nobody reads the one before it any more
    if (tile + 1 < tiles) fetch(tile + 1);
    const int left = shape.tokens - tile * kKeys<kDim>;
    if (has_rows && left >= kKeys<kDim> && kKeys < kDim >> kKeysAlways) {
      AddTile<kDim, true>(shared, tile % 2, left, shape, running);
    } else if (has_rows) {
      AddTile<kDim, false>(shared, tile % 2, left, shape, running);
    }
  }
  WriteRows<kDim>(shared, args, shape, place, running);
}

// ---- launcher -----------------------------------------------------------------------------------

CudaOpOr Mma(const SelfAttentionArgs& args, CudaOpBuilder& builder, AttentionShape shape) {
  VITSCALE_ASSIGN_OR_RETURN(const AttentionForward forward,
                            MmaAttention({args.batch, args.tokens, args.heads, shape.head_dim}));
  return MakeAttentionOp(args, builder, MmaAttentionVariant(shape.head_dim), forward);
}

}  // namespace

absl::StatusOr<AttentionForward> MmaAttention(const AttentionSize& size) {
  AttentionShape shape = ShapeOfAttention(size.tokens, size.heads, size.head_dim);
  shape.tiles = TilesOf(shape.tokens, kQueryRows);
  const dim3 grid(static_cast<unsigned>(size.batch * size.heads * shape.tiles));
  VITSCALE_RETURN_IF_ERROR(WithPaddedHeadDim(shape.head_dim, [](auto dim) {
    return AllowSharedBytes(ForwardMma<dim()>, sizeof(ForwardShared<dim()>));
  }));
  return AttentionForward([=](const AttentionOperands& operands, cudaStream_t stream) {
    const ForwardArgs to{static_cast<const Bf16*>(operands.qkv), static_cast<Bf16*>(operands.out),
                         operands.log_sum_exp};
    return WithPaddedHeadDim(shape.head_dim, [&](auto dim) {
      return Launch(ForwardMma<dim()>, grid, dim3(kAttentionThreads), sizeof(ForwardShared<dim()>),
                    stream, to, shape);
    });
  });
}

CudaOpOr MakeCudaOp(const SelfAttentionArgs& args, CudaOpBuilder& builder) {
  return MakeSelfAttention<ForwardShared>(args, builder, Mma);
}

}  // namespace vitscale::cuda
