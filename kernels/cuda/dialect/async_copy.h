// Copies from global to shared memory that go on behind the arithmetic. What CopyAsync was asked
// for is there after CopyWait and, for other threads, a BlockBarrier behind it; on the CPU it is
// copied only then, never before.

#ifndef KERNELS_CUDA_DIALECT_ASYNC_COPY_H_
#define KERNELS_CUDA_DIALECT_ASYNC_COPY_H_

#include "kernels/cuda/dialect/shared.h"

namespace vitscale::cuda {

// 16 bytes; both addresses multiples of 16. Without `valid` zeros are written and `from` is not
// read.
template <typename T>
__device__ inline void CopyAsync(SharedAddress<T> to, const T* from, bool valid) {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::CopyAsync(to.at, from, valid);
#else
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to.at));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#endif
}

// Closes a group: the copies of this thread since the last one.
__device__ inline void CopyCommit() {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::CopyCommit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Until at most the newest `kPending` groups of this thread are under way.
template <int kPending>
__device__ inline void CopyWait() {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::CopyWait(kPending);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_ASYNC_COPY_H_
