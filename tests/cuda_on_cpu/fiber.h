// A thread of a kernel: a stack of its own and the place where it goes on. Switching costs a few
// nanoseconds; AddressSanitizer is told about every switch.

#ifndef TESTS_CUDA_ON_CPU_FIBER_H_
#define TESTS_CUDA_ON_CPU_FIBER_H_

#include <cstddef>

namespace vitscale::cuda_on_cpu {

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  Fiber() = default;  // for the stack that the host thread already has
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // The next switch to this fiber calls entry(argument), which must not return.
  void Start(Entry entry, void* argument);

  // Leaves `from`, which runs now, for `to`. Returns when somebody switches to `from` again.
  static void Switch(Fiber& from, Fiber& to);

 private:
  static void Main();
  static void Arrived(Fiber& fiber);

  void* stack_pointer_ = nullptr;
  std::byte* stack_ = nullptr;          // mapped, a guard page below; null for the host thread
  const void* stack_bottom_ = nullptr;  // as AddressSanitizer wants it
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's, while the fiber is not running
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
};

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_FIBER_H_
