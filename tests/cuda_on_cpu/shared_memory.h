// The shared memory of the block that runs, with a shadow that knows of every cell who wrote it and
// who has read it since the last barrier.
//
// Two accesses of different threads, one of them a write, must have a block barrier between them,
// or, in one warp, a warp barrier. Shuffles, MmaBf16 and LoadMatrix order nothing: that is what the
// programming guide says of them. A cell begins as 16 bytes and is split when a smaller access
// comes, so that neighbours never look like one word.

#ifndef TESTS_CUDA_ON_CPU_SHARED_MEMORY_H_
#define TESTS_CUDA_ON_CPU_SHARED_MEMORY_H_

#include <cstddef>

#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/fault.h"

namespace vitscale::cuda_on_cpu {

void BeginSharedMemory(size_t bytes);  // of a launch: exactly so many bytes
void BeginBlockSharedMemory();         // poisoned with NaN
void PassBlockBarrier();

void* SharedMemoryOf(size_t struct_bytes, CodePlace place);
void CheckedRead(void* to, const void* shared, size_t bytes, size_t alignment, CodePlace place);
void CheckedWrite(void* shared, const void* from, size_t bytes, size_t alignment, CodePlace place);

// The destination is poisoned when a copy is issued and holds the bytes only when it is awaited.
void IssueCopy(void* to, const void* from, bool valid, CodePlace place);
void CommitCopies();
void AwaitCopies(int pending, CodePlace place);
void CheckCopiesAwaited(KernelThread& thread);

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_SHARED_MEMORY_H_
