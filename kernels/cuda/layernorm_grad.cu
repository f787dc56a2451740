// LayerNormGrad on CUDA. Contract: LayerNormGradArgs in kernels/ops.h. Reference:
// kernels/cpu/layernorm.cc.
//
//   variant  chosen when               memory traffic per element (grad_y and cast in bf16)
//   simple   width % 4 != 0 or too     as vector; grad_y and x twice (mostly from cache), and 16 B
//            wide (above kWidthMax)    of shares to and from cache
//   vector   otherwise                 read 2 B grad_y, 4 B x, 4 B grad_residual (if there is one),
//                                      write 4 B grad_x, 2 B cast: 16 B
//   A bf16 x takes 2 B. y once more costs its 2 B written; its operands are in registers.
//
// A block walks a tile of rows. Vector: a thread owns two times four columns for the whole tile, so
// its shares of grad_gamma and grad_beta stay in registers; kRows rows share one barrier, at which
// the warps exchange the row's two sums. Then one slot per tile, summed by LaunchShareSum: 8 B /
// rows of a tile, below 1 % of the traffic. [50432, 768]: 620 MB, 185 us at 3.35 TB/s.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/column_sum.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"
#include "kernels/cuda/layernorm.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreadsMax = 256;
constexpr int kVectors = 2;
constexpr int kRows = 2;
constexpr int kWidthMax = kThreadsMax * kVectors * 4;
constexpr int kWarpsPerMultiprocessor = 16;  // up to 128 registers a thread

struct GradRows {
  const void* grad_y;          // [rows, width]
  const void* x;               // [rows, width]
  const float* mean;           // [rows]
  const float* inv_std;        // [rows]
  const float* gamma;          // [width]
  const float* grad_residual;  // [rows, width], or null; may be grad_x
  float* grad_x;               // [rows, width]
  void* grad_x_cast;           // [rows, width], or null
  const float* beta;           // [width], with y
  void* y;                     // [rows, width], or null
  bool y_is_bf16;              // else f32
  float* shares;               // [tiles, 2, width]: of grad_gamma, of grad_beta
  int64_t rows, rows_per_tile;
  int width;
};

// With h = (x - mean) inv_std and e = grad_y gamma: grad_x = inv_std (e - mean(e) - h mean(e h)).
__device__ inline float GradX(float e, float h, float mean_e, float mean_eh, float inv_std) {
  return (e - mean_e - h * mean_eh) * inv_std;
}

// Forward's y from element `at` on. The type is looked up here rather than compiled for: it is the
// same for every thread.
template <int N>
__device__ inline void StoreY(const GradRows& rows, int64_t at, const Floats<N>& y) {
  if (rows.y_is_bf16) {
    StoreFloats(static_cast<Bf16*>(rows.y) + at, y);
  } else {
    StoreFloats(static_cast<float*>(rows.y) + at, y);
  }
}

// ---- simple -------------------------------------------------------------------------------------

struct SimpleShared {
  WarpSlots<float> slots;
};

template <typename X, typename GradY, typename Cast>
__global__ void __launch_bounds__(kThreadsMax) BackwardSimple(GradRows rows) {
  auto& shared = SharedMemory<SimpleShared>();
  const int width = rows.width, first_column = static_cast<int>(threadIdx.x);
  const int64_t first = int64_t{blockIdx.x} * rows.rows_per_tile;
  const int64_t end =
      first + rows.rows_per_tile < rows.rows ? first + rows.rows_per_tile : rows.rows;
  float* gamma_share = rows.shares + int64_t{blockIdx.x} * 2 * width;
  float* beta_share = gamma_share + width;
  for (int c = first_column; c < width; c += kThreadsMax) gamma_share[c] = beta_share[c] = 0.0f;
  for (int64_t row = first; row < end; ++row) {
    const GradY* grad_y = static_cast<const GradY*>(rows.grad_y) + row * width;
    const X* x = static_cast<const X*>(rows.x) + row * width;
    const float mean = rows.mean[row], inv_std = rows.inv_std[row];
    float e_sum = 0.0f, eh_sum = 0.0f;
    for (int c = first_column; c < width; c += kThreadsMax) {
      const float gradient = ToFloat(grad_y[c]), h = Normalised(ToFloat(x[c]), mean, inv_std);
      e_sum += gradient * rows.gamma[c];
      eh_sum += gradient * rows.gamma[c] * h;
      gamma_share[c] += gradient * h;
      beta_share[c] += gradient;
    }
    const float mean_e = BlockSum(e_sum, shared.slots) / static_cast<float>(width);
    const float mean_eh = BlockSum(eh_sum, shared.slots) / static_cast<float>(width);
    for (int c = first_column; c < width; c += kThreadsMax) {
      const int64_t at = row * width + c;
      const float h = Normalised(ToFloat(x[c]), mean, inv_std);
      float gradient = GradX(ToFloat(grad_y[c]) * rows.gamma[c], h, mean_e, mean_eh, inv_std);
      if (rows.grad_residual != nullptr) gradient += rows.grad_residual[at];
      rows.grad_x[at] = gradient;
      if constexpr (kIsPresent<Cast>) FromFloat(gradient, static_cast<Cast*>(rows.grad_x_cast)[at]);
      if (rows.y != nullptr) {
        StoreY<1>(rows, at, {ScaleAndShift(h, rows.gamma[c], rows.beta[c])});
      }
    }
  }
}

// ---- vector -------------------------------------------------------------------------------------

// Two buffers, so that one barrier is enough: who is a group of rows ahead writes the other one.
struct VectorShared {
  SharedArray<float, 2 * (kThreadsMax / kWarpLanes) * 2 * kRows>
      sums;  // [buffer, warp, row, e | eh]
};

// A thread's columns of one row.
struct ThreadRow {
  Floats<4> h[kVectors], e[kVectors], residual[kVectors];
  float inv_std;
};

__device__ inline int Column(int k) {
  return 4 * (k * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x));
}

template <typename X, typename GradY>
__device__ inline ThreadRow LoadRow(const GradRows& rows, int64_t row, bool inside) {
  ThreadRow to;
  const float mean = inside ? rows.mean[row] : 0.0f;
  to.inv_std = inside ? rows.inv_std[row] : 0.0f;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int64_t at = row * rows.width + Column(k);
    const bool load = inside && Column(k) < rows.width;
    to.h[k] = load ? LoadFloats<4>(static_cast<const X*>(rows.x) + at) : ZeroFloats<4>();
    to.e[k] = load ? LoadFloats<4>(static_cast<const GradY*>(rows.grad_y) + at) : ZeroFloats<4>();
    to.residual[k] = load && rows.grad_residual != nullptr ? LoadFloats<4>(rows.grad_residual + at)
                                                           : ZeroFloats<4>();
#pragma unroll
    for (int i = 0; i < 4; ++i) to.h[k][i] = Normalised(to.h[k][i], mean, to.inv_std);
  }
  return to;
}

template <typename Cast>
__device__ inline void StoreRow(const GradRows& rows, int64_t row, const ThreadRow& from,
                                float mean_e, float mean_eh) {
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    if (Column(k) >= rows.width) continue;
    const int64_t at = row * rows.width + Column(k);
    Floats<4> gradient;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      gradient[i] =
          GradX(from.e[k][i], from.h[k][i], mean_e, mean_eh, from.inv_std) + from.residual[k][i];
    }
    StoreFloats(rows.grad_x + at, gradient);
    if constexpr (kIsPresent<Cast>) {
      StoreFloats(static_cast<Cast*>(rows.grad_x_cast) + at, gradient);
    }
  }
}

constexpr int kSums = 2 * kRows;
using RowSums = Vec<float, kSums>;  // of e and of e h, row by row

// A thread's columns of gamma, and its shares of the gradients of gamma and beta.
struct ThreadColumns {
  Floats<4> gamma[kVectors], gamma_share[kVectors], beta_share[kVectors];

  __device__ explicit ThreadColumns(const GradRows& rows) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      gamma[k] = Column(k) < rows.width ? LoadFloats<4>(rows.gamma + Column(k)) : ZeroFloats<4>();
      gamma_share[k] = beta_share[k] = ZeroFloats<4>();
    }
  }
  // row.e comes as grad_y and leaves as grad_y gamma.
  __device__ void AddRow(ThreadRow& row, float& e_sum, float& eh_sum) {
    e_sum = eh_sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float gradient = row.e[k][i], h = row.h[k][i];
        gamma_share[k][i] += gradient * h;
        beta_share[k][i] += gradient;
        row.e[k][i] = gradient * gamma[k][i];
        e_sum += row.e[k][i];
        eh_sum += row.e[k][i] * h;
      }
    }
  }
  __device__ void StoreRowOfY(const GradRows& rows, int64_t row, const ThreadRow& from) const {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if (Column(k) >= rows.width) continue;
      const Floats<4> beta = LoadFloats<4>(rows.beta + Column(k));  // from cache
      Floats<4> y;
#pragma unroll
      for (int i = 0; i < 4; ++i) y[i] = ScaleAndShift(from.h[k][i], gamma[k][i], beta[i]);
      StoreY(rows, row * rows.width + Column(k), y);
    }
  }
  __device__ void StoreShares(const GradRows& rows) const {
    float* share = rows.shares + int64_t{blockIdx.x} * 2 * rows.width;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if (Column(k) >= rows.width) continue;
      StoreFloats(share + Column(k), gamma_share[k]);
      StoreFloats(share + rows.width + Column(k), beta_share[k]);
    }
  }
};

// Means over a row's columns from every lane's sums, in every thread.
__device__ inline RowSums MeansOverBlock(const RowSums& lane, int buffer, int width,
                                         VectorShared& shared) {
  const int warps = static_cast<int>(blockDim.x) / kWarpLanes;
  const int first = buffer * (kThreadsMax / kWarpLanes) * kSums;
  RowSums mine, total = {};
#pragma unroll
  for (int i = 0; i < kSums; ++i) mine[i] = WarpSum(lane[i]);
  if (Lane() == 0) shared.sums.Store(first + Warp() * kSums, mine);
  BlockBarrier();
#pragma unroll 1
  for (int warp = 0; warp < warps; ++warp) {
    const RowSums other = shared.sums.Load<kSums>(first + warp * kSums);
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] += other[i];
  }
#pragma unroll
  for (int i = 0; i < kSums; ++i) total[i] *= 1.0f / static_cast<float>(width);
  return total;
}

template <typename X, typename GradY, typename Cast>
__global__ void __launch_bounds__(kThreadsMax, 2) BackwardVector(GradRows rows) {
  auto& shared = SharedMemory<VectorShared>();
  const int64_t first = int64_t{blockIdx.x} * rows.rows_per_tile;
  const int64_t end =
      first + rows.rows_per_tile < rows.rows ? first + rows.rows_per_tile : rows.rows;
  ThreadColumns columns(rows);
  int buffer = 0;
  for (int64_t row = first; row < end; row += kRows, buffer ^= 1) {
    ThreadRow part[kRows];
    RowSums sums;
#pragma unroll
    for (int r = 0; r < kRows; ++r) part[r] = LoadRow<X, GradY>(rows, row + r, row + r < end);
#pragma unroll
    for (int r = 0; r < kRows; ++r) columns.AddRow(part[r], sums[2 * r], sums[2 * r + 1]);
    const RowSums means = MeansOverBlock(sums, buffer, rows.width, shared);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= end) continue;
      StoreRow<Cast>(rows, row + r, part[r], means[2 * r], means[2 * r + 1]);
      if (rows.y != nullptr) columns.StoreRowOfY(rows, row + r, part[r]);
    }
  }
  columns.StoreShares(rows);
}

// ---- launcher -----------------------------------------------------------------------------------

struct GradVariant {
  void (*kernel)(GradRows);
  std::string name;
  int threads;
  size_t shared_bytes;
};

template <typename X, typename GradY, typename Cast>
GradVariant ChooseVariant(int width) {
  if (width % 4 != 0 || width > kWidthMax) {
    return {BackwardSimple<X, GradY, Cast>,
            width % 4 != 0 ? absl::StrCat("simple: width ", width, " is no multiple of 4")
                           : absl::StrCat("simple: width ", width, " is above ", kWidthMax),
            kThreadsMax, sizeof(SimpleShared)};
  }
  const int64_t warps = CeilDivide(width, kWarpLanes * kVectors * 4);
  return {BackwardVector<X, GradY, Cast>, "vector", static_cast<int>(warps) * kWarpLanes,
          sizeof(VectorShared)};
}

// As many tiles as the device holds blocks at a time, so that all end together; a tile has at least
// kRows rows, and an even number of them.
int64_t RowsPerTile(int64_t rows, int threads, const DeviceLimits& limits) {
  const int64_t blocks =
      int64_t{limits.multiprocessors} * std::max(1, kWarpsPerMultiprocessor * kWarpLanes / threads);
  return CeilDivide(CeilDivide(rows, std::max<int64_t>(blocks, 1)), kRows) * kRows;
}

}  // namespace

CudaOpOr MakeCudaOp(const LayerNormGradArgs& args, CudaOpBuilder& builder) {
  const int width = static_cast<int>(args.x.columns());
  const GradVariant variant = WithType(args.x.dtype, [&](auto x) {
    return WithType(args.grad_y.dtype, [&](auto grad_y) {
      return WithType(args.grad_x_cast, [&](auto cast) {
        return ChooseVariant<decltype(x), decltype(grad_y), decltype(cast)>(width);
      });
    });
  });
  GradRows rows{.grad_y = builder.Memory<const void>(args.grad_y),
                .x = builder.Memory<const void>(args.x),
                .mean = builder.Memory<const float>(args.mean),
                .inv_std = builder.Memory<const float>(args.inv_std),
                .gamma = builder.Memory<const float>(args.gamma),
                .grad_residual = builder.Memory<const float>(args.grad_residual),
                .grad_x = builder.Memory<float>(args.grad_x),
                .grad_x_cast = builder.Memory<void>(args.grad_x_cast),
                .beta = builder.Memory<const float>(args.beta),
                .y = builder.Memory<void>(args.y),
                .y_is_bf16 = args.y.dtype == DType::kBf16,
                .shares = nullptr,
                .rows = args.x.rows(),
                .rows_per_tile = RowsPerTile(args.x.rows(), variant.threads, builder.limits()),
                .width = width};
  const int64_t tiles = CeilDivide(rows.rows, rows.rows_per_tile);
  rows.shares = static_cast<float*>(builder.Scratch(tiles * 2 * width * sizeof(float)));
  const ColumnParts sums{
      {builder.Memory<float>(args.grad_gamma), builder.Memory<float>(args.grad_beta)},
      {width, width}};
  return MakeOp(variant.name, [=, accumulate = args.accumulate](const RunContext& context) {
    VITSCALE_RETURN_IF_ERROR(Launch(variant.kernel, dim3(Blocks(tiles)), dim3(variant.threads),
                                    variant.shared_bytes, context.stream, rows));
    return LaunchShareSum(rows.shares, tiles, sums, accumulate, context.stream);
  });
}

}  // namespace vitscale::cuda
