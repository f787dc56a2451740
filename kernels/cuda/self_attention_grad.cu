// Backward of SelfAttention on CUDA. Contract: SelfAttentionGradArgs in kernels/ops.h. Reference:
// kernels/cpu/self_attention.cc.
//
//   variant   chosen when               memory traffic per head of `tokens` rows, head dim d
//   simple    f32; head dim > 128       self_attention_simple.cu
//   mma       bf16, head dim <= 128     24 d tokens B: the query pass reads q, k, v, out and
//                                       grad_out and writes grad_q; the key pass reads q, k, v and
//                                       grad_out and writes grad_k and grad_v. Further blocks of
//                                       rows of a head find the other side in the L2 cache.
//
// sm_90, padded head dim 16, 32, ... 128, no spills, two blocks a multiprocessor or more:
//   query pass   139 to 254 registers, 25 to 104 KB of shared memory
//   key pass     153 to 250 registers, 25 to 75 KB
//
// Two passes and no atomics: a block of the first owns query rows and goes over the keys, a block
// of the second owns key rows and goes over the queries, so every sum has one order. The price is
// that P and dP are made twice: 7 products of 2 d tokens^2 FLOP in place of 5 (B/16 at batch 1,024:
// 423 GFLOP, 428 us at an H100's dense peak; 3.7 GB, 1.1 ms at 3.35 TB/s).
//
// delta, that makes the rows of dS sum to 0, is rowsum(P * dP) on the CPU, exact in f32. Here the
// query pass begins with rowsum(grad_out * out), the same but for the rounding of `out` to bf16,
// sums what the rows of dS miss 0 by, and gives the key pass the corrected value: gradients of key
// biases vanish as they do on the CPU, and no product is made three times. grad_q keeps the first
// one: its error is that of the rounding of `out`.
//
// P and dS are rounded to bf16 for the second product, as on the CPU.

#include <cmath>

#include "kernels/base/status.h"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/launch.h"

namespace vitscale::cuda {
namespace {

struct GradArgs {
  const Bf16* grad_out;      // [batch * tokens, width]
  const Bf16* qkv;           // [batch * tokens, 3 * width]
  const Bf16* out;           // [batch * tokens, width]
  const float* log_sum_exp;  // [batch, heads, tokens]
  Bf16* grad_qkv;            // [batch * tokens, 3 * width]
  // From the query pass to the key pass; 0 beyond the last token, where q and grad_out are 0 as
  // well, so that dS is 0 and P adds nothing.
  float* log2_sum_exp;  // [batch, heads, padded_tokens]: log_sum_exp / ln 2
  float* delta;         // [batch, heads, padded_tokens]
  int padded_tokens;    // whole tiles of kQueryRows
};

template <int kRowTiles, int kColumns>
using Fragments = FragmentC[kRowTiles][kColumns / 8];

// s = a b^T and d = c e^T, side by side so that one product's loads hide behind the other's: rows
// [a_row, +16 kRowTiles) of the first two tiles, rows [b_row, +kColumns) of the others.
template <int kDim, int kRowTiles, int kColumns, typename RowTile, typename ColumnTile>
__device__ inline void ScoresAndGrads(RowTile& a, RowTile& c, int a_row, ColumnTile& b,
                                      ColumnTile& e, int b_row, Fragments<kRowTiles, kColumns>& s,
                                      Fragments<kRowTiles, kColumns>& d) {
#pragma unroll
  for (int column = 0; column < kDim; column += kMmaRows) {
    FragmentA left[kRowTiles], right[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      left[m] = LoadA<kDim>(a, a_row + m * kMmaRows, column);
      right[m] = LoadA<kDim>(c, a_row + m * kMmaRows, column);
    }
    MmaRow<kRowTiles, kColumns>(
        s, left, [&](int row) { return LoadTransposedB<kDim>(b, b_row + row, column); });
    MmaRow<kRowTiles, kColumns>(
        d, right, [&](int row) { return LoadTransposedB<kDim>(e, b_row + row, column); });
  }
}

// sum += w rows, w [16 kRowTiles, kSummed] rounded to bf16, rows [row, +kSummed) of the tile.
template <int kDim, int kRowTiles, int kSummed, typename Tile>
__device__ inline void AddProduct(const Fragments<kRowTiles, kSummed>& w, Tile& rows, int row,
                                  Fragments<kRowTiles, kDim>& sum) {
#pragma unroll
  for (int k = 0; k < kSummed; k += kMmaRows) {
    FragmentA a[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) a[m] = RoundedToA(w[m][k / 8], w[m][k / 8 + 1]);
    MmaRow<kRowTiles, kDim>(sum, a, [&](int column) { return LoadB<kDim>(rows, row + k, column); });
  }
}

// ---- query pass ---------------------------------------------------------------------------------

constexpr int kQueryRowTiles = 2;
constexpr int kWarpQueries = kQueryRowTiles * kMmaRows;     // 32
constexpr int kQueryRows = kAttentionWarps * kWarpQueries;  // 128, of a block
constexpr int kSlab = 32;                                   // keys whose scores are at hand at once
template <int kDim>
constexpr int kKeys = kDim <= 80 ? 64 : 32;  // of a tile in shared memory

template <int kDim>
struct QueryShared {
  AttentionTile<kQueryRows, kDim> queries, grad_out;
  AttentionTile<kKeys<kDim>, kDim> keys[2], values[2];  // one is read while the next arrives
};

// A lane's query rows.
struct QueryRow {
  float log2_sum_exp, delta;
  float excess;  // what this lane's part of the row of dS / scale sums to
};
using QueryLanes = QueryRow[kQueryRowTiles][2];

// log_sum_exp and the first delta; four lanes share a row.
__device__ inline void LoadQueryRows(const GradArgs& args, const AttentionShape& shape,
                                     const AttentionPlace& place, int first, QueryLanes& lanes) {
  const HeadRows<const Bf16> out = HeadPart(args.out, shape, place, 1, 0),
                             grad_out = HeadPart(args.grad_out, shape, place, 1, 0);
  const float* log_sum_exp =
      args.log_sum_exp + (place.image * shape.heads + place.head) * shape.tokens;
#pragma unroll
  for (int i = 0; i < kQueryRowTiles * 2; ++i) {
    const int row = first + RowOfC(i / 2, i % 2);
    const bool valid = row < shape.tokens;
    float delta = 0;
    for (int column = Lane() % 4 * 8; valid && column < shape.head_dim; column += 32) {
      const Vec<Bf16, 8> a = LoadVec<8>(out.Row(row) + column),
                         b = LoadVec<8>(grad_out.Row(row) + column);
#pragma unroll
      for (int c = 0; c < 8; ++c) delta += ToFloat(a[c]) * ToFloat(b[c]);
    }
    QueryRow& lane = lanes[i / 2][i % 2];
    lane.log2_sum_exp = valid ? log_sum_exp[row] * kLog2E : 0.0f;
    lane.delta = WarpSum<4>(delta);
    lane.excess = 0;
  }
}

// grad_scores, which held those of P, -> dS / scale; keys from `count` on are not there (kFull: all
// are).
template <bool kFull>
__device__ inline void GradScores(const Fragments<kQueryRowTiles, kSlab>& scores, float scale_log2,
                                  int count, QueryLanes& lanes,
                                  Fragments<kQueryRowTiles, kSlab>& grad_scores) {
#pragma unroll
  for (int m = 0; m < kQueryRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kSlab / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        QueryRow& lane = lanes[m][e / 2];
        const float p = FastExp2Flushed(scores[m][n].v[e] * scale_log2 - lane.log2_sum_exp);
        float& grad = grad_scores[m][n].v[e];
        grad = p * (grad - lane.delta);
        if (!kFull && ColumnOfC(n) + e % 2 >= count) grad = 0;
        lane.excess += grad;
      }
    }
  }
}

// For the key pass: all rows of the block, also those beyond the last token.
__device__ inline void HandOver(const GradArgs& args, const AttentionShape& shape,
                                const AttentionPlace& place, int first, const QueryLanes& lanes) {
  const int64_t head = (place.image * shape.heads + place.head) * args.padded_tokens;
#pragma unroll
  for (int i = 0; i < kQueryRowTiles * 2; ++i) {
    const QueryRow& lane = lanes[i / 2][i % 2];
    const float excess = WarpSum<4>(lane.excess);
    if (Lane() % 4 != 0) continue;
    const int64_t at = head + first + RowOfC(i / 2, i % 2);
    args.log2_sum_exp[at] = lane.log2_sum_exp;
    args.delta[at] = lane.delta + excess;
  }
}

template <int kDim>
__global__ void __launch_bounds__(kAttentionThreads, 1)
    GradQueryMma(GradArgs args, AttentionShape shape) {
  auto& shared = SharedMemory<QueryShared<kDim>>();
  const AttentionPlace place = PlaceOfBlock(shape);
  const HeadRows<const Bf16> keys = HeadPart(args.qkv, shape, place, 3, 1),
                             values = HeadPart(args.qkv, shape, place, 3, 2);
  const auto fetch = [&](int tile) {
    CopyTile<kKeys<kDim>, kDim>(shared.keys[tile % 2], keys, tile * kKeys<kDim>, shape);
    CopyTile<kKeys<kDim>, kDim>(shared.values[tile % 2], values, tile * kKeys<kDim>, shape);
    CopyCommit();
  };
  const int first = place.tile * kQueryRows, warp_row = Warp() * kWarpQueries;
  CopyTile<kQueryRows, kDim>(shared.queries, HeadPart(args.qkv, shape, place, 3, 0), first, shape);
  CopyTile<kQueryRows, kDim>(shared.grad_out, HeadPart(args.grad_out, shape, place, 1, 0), first,
                             shape);
  fetch(0);
  QueryLanes lanes;
  LoadQueryRows(args, shape, place, first + warp_row, lanes);
  Fragments<kQueryRowTiles, kDim> grad_q = {};
  const bool has_rows = first + warp_row < shape.tokens;  // of the whole warp
  const int tiles = (shape.tokens + kKeys<kDim> - 1) / kKeys<kDim>;
  for (int tile = 0; tile < tiles; ++tile) {
    CopyWait<0>();
    BlockBarrier();  // this tile is there, and nobody reads the one before it any more
    if (tile + 1 < tiles) fetch(tile + 1);
    auto &tile_keys = shared.keys[tile % 2], &tile_values = shared.values[tile % 2];
    const int left = has_rows ? shape.tokens - tile * kKeys<kDim> : 0;
#pragma unroll 1
    for (int slab = 0; slab < kKeys<kDim> && slab < left; slab += kSlab) {
      Fragments<kQueryRowTiles, kSlab> scores = {}, grad_scores = {};
      ScoresAndGrads<kDim, kQueryRowTiles, kSlab>(shared.queries, shared.grad_out, warp_row,
                                                  tile_keys, tile_values, slab, scores,
                                                  grad_scores);
      if (left - slab >= kSlab) {
        GradScores<true>(scores, shape.scale * kLog2E, kSlab, lanes, grad_scores);
      } else {
        GradScores<false>(scores, shape.scale * kLog2E, left - slab, lanes, grad_scores);
      }
      AddProduct<kDim, kQueryRowTiles, kSlab>(grad_scores, tile_keys, slab, grad_q);
    }
  }
  HandOver(args, shape, place, first + warp_row, lanes);
  const float scale[kQueryRowTiles][2] = {{shape.scale, shape.scale}, {shape.scale, shape.scale}};
  BlockBarrier();  // nobody reads the queries any more
  StoreC<kQueryRowTiles, kDim>(grad_q, scale, warp_row, shared.queries);
  BlockBarrier();
  WriteTile<kQueryRows, kDim>(shared.queries, HeadPart(args.grad_qkv, shape, place, 3, 0), first,
                              shape);
}

// ---- key pass -----------------------------------------------------------------------------------

// What registers hold beside 2 kDim columns of results: 32 key rows of a warp up to head dim 80, 16
// beyond; kSlab queries at a time have their scores at hand, out of kQueries in shared memory.
template <int kDim>
struct KeyTiling {
  static constexpr int kRowTiles = kDim <= 80 ? 2 : 1;
  static constexpr int kWarpKeys = kRowTiles * kMmaRows;
  static constexpr int kKeyRows = kAttentionWarps * kWarpKeys;  // of a block
  static constexpr int kSlab = kDim == 80 ? 16 : 32;
  static constexpr int kQueries = kDim <= 64 ? 64 : 32;
};

template <int kDim>
struct KeyShared {
  using Tiling = KeyTiling<kDim>;
  AttentionTile<Tiling::kKeyRows, kDim> keys, values;
  AttentionTile<Tiling::kQueries, kDim> queries[2], grad_out[2];
  SharedArray<float, Tiling::kQueries> log2_sum_exp[2], delta[2];
};

// Starts to copy `kCount` floats from `from`, a multiple of 16 bytes.
template <int kCount>
__device__ inline void CopyFloats(SharedArray<float, kCount>& to, const float* from) {
  const int at = static_cast<int>(threadIdx.x) * 4;
  if (at < kCount) CopyAsync(to.At(at), from + at, true);
}

// scores -> P, grad_scores, which held those of P, -> dS / scale. Rows are keys, columns queries.
template <int kRowTiles, int kColumns, typename Floats>
__device__ inline void GradScoresOfKeys(Floats& log2_sum_exp, Floats& delta, int slab,
                                        float scale_log2, Fragments<kRowTiles, kColumns>& scores,
                                        Fragments<kRowTiles, kColumns>& grad_scores) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
    const Vec<float, 2> shift = log2_sum_exp.template Load<2>(slab + ColumnOfC(n)),
                        middle = delta.template Load<2>(slab + ColumnOfC(n));
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float p = FastExp2Flushed(scores[m][n].v[e] * scale_log2 - shift[e % 2]);
        scores[m][n].v[e] = p;
        grad_scores[m][n].v[e] = p * (grad_scores[m][n].v[e] - middle[e % 2]);
      }
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kAttentionThreads, 1)
    GradKeyValueMma(GradArgs args, AttentionShape shape) {
  using Tiling = KeyTiling<kDim>;
  constexpr int kRowTiles = Tiling::kRowTiles, kQueries = Tiling::kQueries,
                kColumns = Tiling::kSlab;
  auto& shared = SharedMemory<KeyShared<kDim>>();
  const AttentionPlace place = PlaceOfBlock(shape);
  const HeadRows<const Bf16> queries = HeadPart(args.qkv, shape, place, 3, 0),
                             grad_out = HeadPart(args.grad_out, shape, place, 1, 0);
  const int64_t handed = (place.image * shape.heads + place.head) * args.padded_tokens;
  const auto fetch = [&](int tile) {
    const int row = tile * kQueries;
    CopyTile<kQueries, kDim>(shared.queries[tile % 2], queries, row, shape);
    CopyTile<kQueries, kDim>(shared.grad_out[tile % 2], grad_out, row, shape);
    CopyFloats<kQueries>(shared.log2_sum_exp[tile % 2], args.log2_sum_exp + handed + row);
    CopyFloats<kQueries>(shared.delta[tile % 2], args.delta + handed + row);
    CopyCommit();
  };
  const int first = place.tile * Tiling::kKeyRows, warp_row = Warp() * Tiling::kWarpKeys;
  CopyTile<Tiling::kKeyRows, kDim>(shared.keys, HeadPart(args.qkv, shape, place, 3, 1), first,
                                   shape);
  CopyTile<Tiling::kKeyRows, kDim>(shared.values, HeadPart(args.qkv, shape, place, 3, 2), first,
                                   shape);
  fetch(0);
  Fragments<kRowTiles, kDim> grad_k = {}, grad_v = {};
  const bool has_rows = first + warp_row < shape.tokens;  // of the whole warp
  const int tiles = (shape.tokens + kQueries - 1) / kQueries;
  for (int tile = 0; tile < tiles; ++tile) {
    CopyWait<0>();
    BlockBarrier();  // this tile is there, and nobody reads the one before it any more
    if (tile + 1 < tiles) fetch(tile + 1);
    const int stage = tile % 2, left = has_rows ? shape.tokens - tile * kQueries : 0;
#pragma unroll 1
    for (int slab = 0; slab < kQueries && slab < left; slab += kColumns) {
      Fragments<kRowTiles, kColumns> scores = {}, grad_scores = {};
      ScoresAndGrads<kDim, kRowTiles, kColumns>(shared.keys, shared.values, warp_row,
                                                shared.queries[stage], shared.grad_out[stage], slab,
                                                scores, grad_scores);
      GradScoresOfKeys<kRowTiles, kColumns>(shared.log2_sum_exp[stage], shared.delta[stage], slab,
                                            shape.scale * kLog2E, scores, grad_scores);
      AddProduct<kDim, kRowTiles, kColumns>(scores, shared.grad_out[stage], slab, grad_v);
      AddProduct<kDim, kRowTiles, kColumns>(grad_scores, shared.queries[stage], slab, grad_k);
    }
  }
  float scale[kRowTiles][2], one[kRowTiles][2];
  for (auto& row : scale) row[0] = row[1] = shape.scale;
  for (auto& row : one) row[0] = row[1] = 1.0f;
  BlockBarrier();  // nobody reads keys and values any more
  StoreC<kRowTiles, kDim>(grad_k, scale, warp_row, shared.keys);
  StoreC<kRowTiles, kDim>(grad_v, one, warp_row, shared.values);
  BlockBarrier();
  WriteTile<Tiling::kKeyRows, kDim>(shared.keys, HeadPart(args.grad_qkv, shape, place, 3, 1), first,
                                    shape);
  WriteTile<Tiling::kKeyRows, kDim>(shared.values, HeadPart(args.grad_qkv, shape, place, 3, 2),
                                    first, shape);
}

// ---- launcher -----------------------------------------------------------------------------------

// What both passes fit in.
template <int kDim>
union EitherShared {
  QueryShared<kDim> query;
  KeyShared<kDim> key;
};

template <int kDim>
absl::Status AllowPasses() {
  VITSCALE_RETURN_IF_ERROR(AllowSharedBytes(GradQueryMma<kDim>, sizeof(QueryShared<kDim>)));
  return AllowSharedBytes(GradKeyValueMma<kDim>, sizeof(KeyShared<kDim>));
}

template <int kDim>
absl::Status RunPasses(const GradArgs& args, AttentionShape shape, int64_t heads_of_all,
                       cudaStream_t stream) {
  shape.tiles = TilesOf(shape.tokens, kQueryRows);
  VITSCALE_RETURN_IF_ERROR(
      Launch(GradQueryMma<kDim>, dim3(static_cast<unsigned>(heads_of_all * shape.tiles)),
             dim3(kAttentionThreads), sizeof(QueryShared<kDim>), stream, args, shape));
  shape.tiles = TilesOf(shape.tokens, KeyTiling<kDim>::kKeyRows);
  return Launch(GradKeyValueMma<kDim>, dim3(static_cast<unsigned>(heads_of_all * shape.tiles)),
                dim3(kAttentionThreads), sizeof(KeyShared<kDim>), stream, args, shape);
}

CudaOpOr Mma(const SelfAttentionGradArgs& args, CudaOpBuilder& builder, AttentionShape shape) {
  GradArgs to{builder.Memory<const Bf16>(args.grad_out), builder.Memory<const Bf16>(args.qkv),
              builder.Memory<const Bf16>(args.out), builder.Memory<const float>(args.log_sum_exp),
              builder.Memory<Bf16>(args.grad_qkv)};
  to.padded_tokens = TilesOf(shape.tokens, kQueryRows) * kQueryRows;
  const int64_t heads_of_all = args.batch * args.heads, count = heads_of_all * to.padded_tokens;
  to.log2_sum_exp = static_cast<float*>(builder.Scratch(2 * count * 4));
  to.delta = to.log2_sum_exp + count;
  VITSCALE_RETURN_IF_ERROR(
      WithPaddedHeadDim(shape.head_dim, [](auto dim) { return AllowPasses<dim()>(); }));
  return MakeOp(MmaAttentionVariant(shape.head_dim), [=](const RunContext& context) {
    return WithPaddedHeadDim(shape.head_dim, [&](auto dim) {
      return RunPasses<dim()>(to, shape, heads_of_all, context.stream);
    });
  });
}

}  // namespace

CudaOpOr MakeCudaOp(const SelfAttentionGradArgs& args, CudaOpBuilder& builder) {
  return MakeSelfAttention<EitherShared>(args, builder, Mma);
}

}  // namespace vitscale::cuda
