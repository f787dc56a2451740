// AddressSanitizer's interface where the program is linked with it (CUDA_ON_CPU_ASAN), nothing
// elsewhere. The layer itself is compiled without instrumentation: it is the kernels that are
// watched.

#ifndef TESTS_CUDA_ON_CPU_SANITIZER_H_
#define TESTS_CUDA_ON_CPU_SANITIZER_H_

#include <cstddef>

#ifdef CUDA_ON_CPU_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack_save, const void** bottom_old,
                                     size_t* size_old);
void __sanitizer_symbolize_pc(void* pc, const char* format, char* out, size_t out_size);
void* __asan_region_is_poisoned(void* begin, size_t size);
void __asan_poison_memory_region(const volatile void* begin, size_t size);
void __asan_unpoison_memory_region(const volatile void* begin, size_t size);
}
#endif

namespace vitscale::cuda_on_cpu {

#ifdef CUDA_ON_CPU_ASAN
inline constexpr bool kAddressSanitizer = true;
inline void StartSwitchFiber(void** save, const void* bottom, size_t size) {
  __sanitizer_start_switch_fiber(save, bottom, size);
}
inline void FinishSwitchFiber(void* save, const void** bottom_old, size_t* size_old) {
  __sanitizer_finish_switch_fiber(save, bottom_old, size_old);
}
// Frames, innermost first, those inlined included: each a string, an empty one ends the list.
inline void SymbolizePc(void* pc, const char* format, char* out, size_t out_size) {
  __sanitizer_symbolize_pc(pc, format, out, out_size);
}
// The first byte that must not be touched, or null.
inline void* FirstPoisoned(const void* begin, size_t size) {
  return __asan_region_is_poisoned(const_cast<void*>(begin), size);
}
inline void Poison(const void* begin, size_t size) { __asan_poison_memory_region(begin, size); }
inline void Unpoison(const void* begin, size_t size) { __asan_unpoison_memory_region(begin, size); }
#else
inline constexpr bool kAddressSanitizer = false;
inline void StartSwitchFiber(void**, const void*, size_t) {}
inline void FinishSwitchFiber(void*, const void**, size_t*) {}
inline void SymbolizePc(void*, const char*, char* out, size_t) { out[0] = out[1] = 0; }
inline void* FirstPoisoned(const void*, size_t) { return nullptr; }
inline void Poison(const void*, size_t) {}
inline void Unpoison(const void*, size_t) {}
#endif

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_SANITIZER_H_
