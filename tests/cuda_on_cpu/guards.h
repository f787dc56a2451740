// Makes the bytes between the tensors of an arena untouchable for kernels, where kernels run on the
// layer of this folder: a read beside a tensor aborts. On a device only writes are noticed, by
// their sentinels.

#ifndef TESTS_CUDA_ON_CPU_GUARDS_H_
#define TESTS_CUDA_ON_CPU_GUARDS_H_

#include <vector>

namespace vitscale::cuda_on_cpu {

#ifdef VITSCALE_CUDA_ON_CPU
// Of the arena that was written last; owned[i]: byte i belongs to a tensor.
void GuardArena(const std::vector<bool>& owned);
#else
inline void GuardArena(const std::vector<bool>&) {}
#endif

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_GUARDS_H_
