// Row and column sums of squares of gradients. Contract: optimizer.h.
//
// Four rows go together, so that a column sum is loaded and stored once for four rows. Row sums are
// f32 over at most one tile's columns; whatever is longer is added up in f64. A square that
// overflows f32 makes the sum infinite: such a gradient counts as not finite.
//
// Runs of a row are too short for a processor to guess what comes next: the next four rows are asked
// for while four are worked on.

#include "kernels/cpu/grad_stats_simd.h"

#include "kernels/cpu/simd_loop.h"
#include "kernels/cpu/vector_math.h"

namespace vitscale::cpu::VITSCALE_SIMD {
namespace {

constexpr int64_t kRun = 4096;  // elements whose squares are summed in f32 lanes

// A column sum grows by four rows at once: a quarter of the roundings at its full size.
VITSCALE_INLINE F32 InPairs(const F32 (&x)[1]) { return x[0]; }
VITSCALE_INLINE F32 InPairs(const F32 (&x)[4]) { return (x[0] + x[1]) + (x[2] + x[3]); }

template <int kRows>
double RowBlock(const StatsTile& tile, const float* gradient, float* row_sums) {
  const int64_t segments = tile.columns / tile.segment;
  const F32 scale = Set(tile.scale);
  double total = 0.0;
  for (int64_t s = 0; s < segments; ++s) {
    const float* at = gradient + s * tile.segment;
    float* columns = tile.column_sums + s * tile.segment;
    F32 sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = Zero();
    ForVectors(tile.segment, [&](int64_t c, auto lanes, int) VITSCALE_BODY {
      F32 squares[kRows];
      for (int r = 0; r < kRows; ++r) {
        const float* p = at + r * tile.row_stride + c;
        __builtin_prefetch(p + kRows * tile.row_stride, /*write=*/0, /*locality=*/2);
        const F32 g = Load(p, lanes) * scale;
        squares[r] = g * g;
        sums[r] = sums[r] + squares[r];
      }
      Store(columns + c, Load(columns + c, lanes) + InPairs(squares), lanes);
    });
    for (int r = 0; r < kRows; ++r) {
      const float sum = ReduceAdd(sums[r]);
      row_sums[r * tile.row_sum_stride + s] = sum;
      total += sum;
    }
  }
  return total;
}

// One row whose row sums are vectors of `inner` values.
double InnerRow(const StatsTile& tile, const float* gradient, float* row_sums) {
  const F32 scale = Set(tile.scale);
  double total = 0.0;
  for (int64_t s = 0; s < tile.columns; s += tile.segment, row_sums += tile.inner) {
    ForVectors(tile.inner, [&](int64_t k, auto lanes, int) VITSCALE_BODY {
      F64 sum = ZeroDouble();
      for (int64_t c = s + k; c < s + tile.segment; c += tile.inner) {
        const F32 g = Load(gradient + c, lanes) * scale;
        const F32 square = g * g;
        sum = sum + Widen(square);
        Store(tile.column_sums + c, Load(tile.column_sums + c, lanes) + square, lanes);
      }
      Store(row_sums + k, Narrow(sum), lanes);
      total += ReduceAdd(sum);
    });
  }
  return total;
}

}  // namespace

double FactoredStats(const StatsTile& tile) {
  ForVectors(tile.columns, [&](int64_t c, auto lanes, int)
                               VITSCALE_BODY { Store(tile.column_sums + c, Zero(), lanes); });
  double total = 0.0;
  int64_t row = 0;
  if (tile.inner == 1) {
    for (; row + 4 <= tile.rows; row += 4) {
      total += RowBlock<4>(tile, tile.gradient + row * tile.row_stride,
                           tile.row_sums + row * tile.row_sum_stride);
    }
  }
  for (; row < tile.rows; ++row) {
    const float* gradient = tile.gradient + row * tile.row_stride;
    float* sums = tile.row_sums + row * tile.row_sum_stride;
    total += tile.inner == 1 ? RowBlock<1>(tile, gradient, sums) : InnerRow(tile, gradient, sums);
  }
  return total;
}

double SquareSum(const float* gradient, float scale, int64_t count) {
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t run = count - begin < kRun ? count - begin : kRun;
    RowSums sums;
    ForVectors(run, [&](int64_t c, auto lanes, int slot) VITSCALE_BODY {
      const F32 g = Load(gradient + begin + c, lanes) * Set(scale);
      sums.part[slot] = MulAdd(g, g, sums.part[slot]);
    });
    total += ReduceAdd(Widen(Fold(sums)));
  }
  return total;
}

}  // namespace vitscale::cpu::VITSCALE_SIMD
