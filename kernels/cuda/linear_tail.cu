// Bias, GELU and casts around an f32 product on CUDA. Contract: linear_tail.h. Reference:
// kernels/cpu/linear.cc.
//
//   variant   chosen when                      memory traffic per element
//   simple    an odd number of columns         read 4 B (+ pre-activation), write y (+
//   pre-activation) vector    columns % 4 == 0 (widen: all)    the same, four elements at a time
//
// Products of trunks have their epilogue inside of cuBLASLt; here come those of heads in f32 beside
// a bf16 trunk, and shapes for which the library has no algorithm.

#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"
#include "kernels/cuda/gelu.h"
#include "kernels/cuda/linear_tail.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreads = 256;

// ---- widen
// ----------------------------------------------------------------------------------------

template <int kVec>
__global__ void Widen(const Bf16* from, float* to, int64_t count) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVec;
  if (i < count) StoreFloats<kVec>(to + i, LoadFloats<kVec>(from + i));
}

// ---- tail
// -----------------------------------------------------------------------------------------

template <TailKind kKind, typename T>
__device__ inline float Finish(float z, T& pre) {
  if constexpr (kKind == TailKind::kGeluGrad) return z * GeluSlope(ToFloat(pre));
  if constexpr (kKind == TailKind::kPlain) return z;
  pre = Rounded<T>(z);
  return Gelu(ToFloat(pre));
}

template <TailKind kKind, typename T, int kVec>
__global__ void Tail(const float* product, const float* bias, T* pre, T* y, int64_t count,
                     int64_t columns) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVec;
  if (i >= count) return;
  Floats<kVec> z = LoadFloats<kVec>(product + i);
  const Floats<kVec> add =
      bias != nullptr ? LoadFloats<kVec>(bias + i % columns) : ZeroFloats<kVec>();
  Vec<T, kVec> saved{};
  if (kKind == TailKind::kGeluGrad) saved = LoadVec<kVec>(pre + i);
#pragma unroll
  for (int j = 0; j < kVec; ++j) z[j] = Finish<kKind>(z[j] + add[j], saved[j]);
  if (kKind == TailKind::kGelu && pre != nullptr) StoreVec(pre + i, saved);
  StoreFloats<kVec>(y + i, z);
}

template <TailKind kKind, typename T, int kVec>
absl::Status LaunchKind(const LinearTail& tail, cudaStream_t stream) {
  const int64_t count = tail.rows * tail.columns;
  return Launch(Tail<kKind, T, kVec>, dim3(Blocks(CeilDivide(count, kThreads * kVec))),
                dim3(kThreads), 0, stream, tail.product, tail.bias, static_cast<T*>(tail.pre),
                static_cast<T*>(tail.y), count, tail.columns);
}

template <typename T, int kVec>
absl::Status LaunchVec(const LinearTail& tail, cudaStream_t stream) {
  switch (tail.kind) {
    case TailKind::kPlain:
      return LaunchKind<TailKind::kPlain, T, kVec>(tail, stream);
    case TailKind::kGelu:
      return LaunchKind<TailKind::kGelu, T, kVec>(tail, stream);
    case TailKind::kGeluGrad:
      return LaunchKind<TailKind::kGeluGrad, T, kVec>(tail, stream);
  }
  return absl::OkStatus();
}

}  // namespace

// ---- launchers
// ------------------------------------------------------------------------------------

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

absl::Status LaunchTail(const LinearTail& tail, cudaStream_t stream) {
  return WithType(tail.dtype, [&](auto type) {
    using T = decltype(type);
    return tail.columns % 4 == 0 ? LaunchVec<T, 4>(tail, stream) : LaunchVec<T, 1>(tail, stream);
  });
}

}  // namespace vitscale::cuda
