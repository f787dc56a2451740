// Bias, GELU and casts around an f32 product on CUDA. Contract: linear_tail.h. Reference:
// kernels/cpu/linear.cc.
//
//   variant   chosen when                  memory traffic per element
//   simple    an odd number of columns     read 4 B (+ pre-activation), write y
//   vector    columns % 4 == 0             the same, four elements at a time
//   widen     an input is to be f32        read 2 B, write 4 B; four at a time if elements % 4 == 0
//   gelu      GELU behind a product, and   read 2 B, write 2 B (bf16); eight at a time if
//             in backward once more        elements % 8 == 0
//
// Products of trunks have bias, residual and GELU's gradient inside of cuBLASLt; the tail is for
// those of heads in f32 beside a bf16 trunk, and shapes for which the library has no algorithm.

#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"
#include "kernels/cuda/gelu.h"
#include "kernels/cuda/linear_tail.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreads = 256;

// ---- widen --------------------------------------------------------------------------------------

template <int kVec>
__global__ void Widen(const Bf16* from, float* to, int64_t count) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVec;
  if (i < count) StoreFloats<kVec>(to + i, LoadFloats<kVec>(from + i));
}

// ---- gelu ---------------------------------------------------------------------------------------

template <typename T, int kVec>
__global__ void GeluOf(const T* pre, T* y, int64_t count) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVec;
  if (i >= count) return;
  Floats<kVec> value = LoadFloats<kVec>(pre + i);
#pragma unroll
  for (int j = 0; j < kVec; ++j) value[j] = Gelu(value[j]);
  StoreFloats<kVec>(y + i, value);
}

// ---- tail ---------------------------------------------------------------------------------------

template <TailKind kKind, typename T, int kVec>
__global__ void Tail(const float* product, const float* bias, const T* pre, T* y, int64_t count,
                     int64_t columns) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVec;
  if (i >= count) return;
  Floats<kVec> z = LoadFloats<kVec>(product + i);
  if (bias != nullptr) {
    const Floats<kVec> add = LoadFloats<kVec>(bias + i % columns);
#pragma unroll
    for (int j = 0; j < kVec; ++j) z[j] += add[j];
  }
  if constexpr (kKind == TailKind::kGeluGrad) {
    const Floats<kVec> saved = LoadFloats<kVec>(pre + i);
#pragma unroll
    for (int j = 0; j < kVec; ++j) z[j] *= GeluSlope(saved[j]);
  }
  StoreFloats<kVec>(y + i, z);
}

template <TailKind kKind, typename T, int kVec>
absl::Status LaunchKind(const LinearTail& tail, cudaStream_t stream) {
  const int64_t count = tail.rows * tail.columns;
  return Launch(Tail<kKind, T, kVec>, dim3(Blocks(CeilDivide(count, kThreads * kVec))),
                dim3(kThreads), 0, stream, tail.product, tail.bias, static_cast<const T*>(tail.pre),
                static_cast<T*>(tail.y), count, tail.columns);
}

template <typename T, int kVec>
absl::Status LaunchVec(const LinearTail& tail, cudaStream_t stream) {
  switch (tail.kind) {
    case TailKind::kPlain:
      return LaunchKind<TailKind::kPlain, T, kVec>(tail, stream);
    case TailKind::kGeluGrad:
      return LaunchKind<TailKind::kGeluGrad, T, kVec>(tail, stream);
  }
  return absl::OkStatus();
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------

absl::Status LaunchWiden(const void* from, float* to, int64_t elements, cudaStream_t stream) {
  const auto* bf16 = static_cast<const Bf16*>(from);
  constexpr int kVec = 4;
  if (elements % kVec != 0) {
    return Launch(Widen<1>, dim3(Blocks(CeilDivide(elements, kThreads))), dim3(kThreads), 0, stream,
                  bf16, to, elements);
  }
  return Launch(Widen<kVec>, dim3(Blocks(CeilDivide(elements, kThreads * kVec))), dim3(kThreads), 0,
                stream, bf16, to, elements);
}

absl::Status LaunchGelu(const GeluPass& gelu, cudaStream_t stream) {
  return WithType(gelu.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kVec = 8;
    const bool vector = gelu.elements % kVec == 0;
    const int64_t per_block = kThreads * (vector ? kVec : 1);
    return Launch(vector ? GeluOf<T, kVec> : GeluOf<T, 1>,
                  dim3(Blocks(CeilDivide(gelu.elements, per_block))), dim3(kThreads), 0, stream,
                  static_cast<const T*>(gelu.pre), static_cast<T*>(gelu.y), gelu.elements);
  });
}

absl::Status LaunchTail(const LinearTail& tail, cudaStream_t stream) {
  return WithType(tail.dtype, [&](auto type) {
    using T = decltype(type);
    return tail.columns % 4 == 0 ? LaunchVec<T, 4>(tail, stream) : LaunchVec<T, 1>(tail, stream);
  });
}

}  // namespace vitscale::cuda
