// Sums over a block in a fixed order: lanes by butterfly, then warps in turn.

#ifndef KERNELS_CUDA_DIALECT_BLOCK_H_
#define KERNELS_CUDA_DIALECT_BLOCK_H_

#include "kernels/cuda/dialect/shared.h"
#include "kernels/cuda/dialect/warp.h"

namespace vitscale::cuda {

inline constexpr int kWarpsPerBlockMax = 32;

// A slot per warp. Two sums in a row through the same slots are safe: BlockSum begins with a
// barrier.
template <typename T>
using WarpSlots = SharedArray<T, kWarpsPerBlockMax>;

// The sum over all threads of a block of one dimension (a multiple of 32 threads), in every thread.
template <typename T>
__device__ inline T BlockSum(T value, WarpSlots<T>& slots) {
  value = WarpSum(value);
  BlockBarrier();
  if (Lane() == 0) slots[Warp()] = value;
  BlockBarrier();
  const int warps = static_cast<int>(blockDim.x) / kWarpLanes;
  T sum = slots[0];
  for (int i = 1; i < warps; ++i) sum += static_cast<T>(slots[i]);
  return sum;
}
template <typename T>
__device__ inline T BlockMax(T value, WarpSlots<T>& slots) {
  value = WarpMax(value);
  BlockBarrier();
  if (Lane() == 0) slots[Warp()] = value;
  BlockBarrier();
  const int warps = static_cast<int>(blockDim.x) / kWarpLanes;
  T most = slots[0];
  for (int i = 1; i < warps; ++i) {
    const T other = slots[i];
    most = other > most ? other : most;
  }
  return most;
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_BLOCK_H_
