// What the 32 lanes of a warp do together. All 32 must call, from the same place; on the CPU a
// missing lane aborts with that place. Sums go in a butterfly, so every lane has the same bits.

#ifndef KERNELS_CUDA_DIALECT_WARP_H_
#define KERNELS_CUDA_DIALECT_WARP_H_

#include "kernels/cuda/dialect/dialect.h"

namespace vitscale::cuda {

// Of a block of one dimension.
__device__ inline int Lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
__device__ inline int Warp() { return static_cast<int>(threadIdx.x) / kWarpLanes; }

// The value that lane `lane` gave; T of 4 or 8 bytes.
template <typename T>
__device__ inline T Shuffle(T value, int lane) {
#ifdef VITSCALE_CUDA_ON_CPU
  return host_twin::Shuffle(value, lane);
#else
  return __shfl_sync(0xffffffffu, value, lane);
#endif
}
template <typename T>
__device__ inline T ShuffleXor(T value, int mask) {
#ifdef VITSCALE_CUDA_ON_CPU
  return host_twin::Shuffle(value, Lane() ^ mask);
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

// Over groups of `kWidth` neighbouring lanes (32: the warp).
template <int kWidth = kWarpLanes, typename T>
__device__ inline T WarpSum(T value) {
#pragma unroll
  for (int mask = kWidth / 2; mask > 0; mask /= 2) value += ShuffleXor(value, mask);
  return value;
}
template <int kWidth = kWarpLanes, typename T>
__device__ inline T WarpMax(T value) {
#pragma unroll
  for (int mask = kWidth / 2; mask > 0; mask /= 2) {
    const T other = ShuffleXor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_WARP_H_
