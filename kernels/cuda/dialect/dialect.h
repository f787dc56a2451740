// The dialect of CUDA that the kernels of this folder are written in: nvcc compiles it for a
// device, the host compiler (with VITSCALE_CUDA_ON_CPU) for the layer that runs kernels thread by
// thread on a CPU (tests/cuda_on_cpu).
//
// A kernel is a `__global__` function that uses threadIdx, blockIdx, blockDim and gridDim, plain
// arithmetic, the functions of the headers of this folder, and nothing else of CUDA:
//
//   launch.h      Launch(kernel, grid, block, shared_bytes, stream, args...): the only way to start
//                 one; AllowSharedBytes before it where a block has more than 48 KiB
//   shared.h      one struct of SharedArrays from dynamic shared memory; BlockBarrier
//   warp.h        WarpSum, WarpMax, Shuffle...: all 32 lanes take part, always
//   block.h       sums and maxima over a block in a fixed order
//   vec.h         loads and stores of up to 16 bytes
//   mma.h         MmaBf16, LoadMatrix: the tensor cores
//   async_copy.h  CopyAsync, CopyCommit, CopyWait: global to shared memory behind the arithmetic
//   fast_math.h   every approximate intrinsic
//
// README.md of kernels/cuda states the rules and why.

#ifndef KERNELS_CUDA_DIALECT_DIALECT_H_
#define KERNELS_CUDA_DIALECT_DIALECT_H_

#include <cstdint>

#ifdef VITSCALE_CUDA_ON_CPU
#include "kernels/cuda/dialect/host_twin.h"  // __global__, threadIdx, and what the rest is made of
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#endif

namespace vitscale::cuda {

inline constexpr int kWarpLanes = 32;

// bfloat16 as it lies in memory. Arithmetic is done in f32.
struct alignas(2) Bf16 {
  uint16_t bits;
};

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(Bf16 value) {
#ifdef VITSCALE_CUDA_ON_CPU
  return host_twin::FromBf16(value.bits);
#else
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
#endif
}

// Rounds to nearest, ties to even.
__device__ inline void FromFloat(float value, float& to) { to = value; }
__device__ inline void FromFloat(float value, Bf16& to) {
#ifdef VITSCALE_CUDA_ON_CPU
  to.bits = host_twin::ToBf16(value);
#else
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
#endif
}
template <typename T>
__device__ inline T Rounded(float value) {
  T to;
  FromFloat(value, to);
  return to;
}

// Two bf16 in one register, as the tensor cores take them: `low` has the lower address or column.
__device__ inline uint32_t PackBf16(float low, float high) {
#ifdef VITSCALE_CUDA_ON_CPU
  return static_cast<uint32_t>(host_twin::ToBf16(low)) |
         static_cast<uint32_t>(host_twin::ToBf16(high)) << 16;
#else
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);  // one instruction
  return static_cast<uint32_t>(__bfloat16_as_ushort(both.x)) |
         static_cast<uint32_t>(__bfloat16_as_ushort(both.y)) << 16;
#endif
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_DIALECT_H_
