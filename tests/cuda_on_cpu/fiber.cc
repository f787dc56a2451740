#include "tests/cuda_on_cpu/fiber.h"

#include <sys/mman.h>

#include <cstdint>

#include "kernels/base/status.h"
#include "tests/cuda_on_cpu/sanitizer.h"

// Saves the registers that a called function must keep on the old stack, the stack pointer in
// *save, and takes them from the new stack. System V ABI, x86-64.
asm(R"(
.text
.type vitscale_switch_stack, @function
vitscale_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size vitscale_switch_stack, .-vitscale_switch_stack
)");
extern "C" void vitscale_switch_stack(void** save, void* to);

namespace vitscale::cuda_on_cpu {
namespace {

// AddressSanitizer's red zones and a kernel's register arrays live on the stack; pages that are
// never touched cost nothing.
constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kGuardBytes = 4096;
constexpr size_t kSavedRegisters = 6;

Fiber* leaving = nullptr;  // of the switch under way
Fiber* arriving = nullptr;

}  // namespace

Fiber::~Fiber() {
  if (stack_ != nullptr) munmap(stack_ - kGuardBytes, kStackBytes + kGuardBytes);
}

void Fiber::Start(Entry entry, void* argument) {
  if (stack_ == nullptr) {
    void* mapped = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    VITSCALE_CHECK(mapped != MAP_FAILED) << "no memory for a fiber's stack";
    VITSCALE_CHECK(mprotect(mapped, kGuardBytes, PROT_NONE) == 0);
    stack_ = static_cast<std::byte*>(mapped) + kGuardBytes;
    stack_bottom_ = stack_;
    stack_bytes_ = kStackBytes;
  }
  entry_ = entry;
  argument_ = argument;
  // What the switch pops: registers (zero), Main, and a return address that is never used, so that
  // the stack is aligned as after a call.
  auto* top = reinterpret_cast<uintptr_t*>(stack_ + kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(&Fiber::Main);
  for (size_t i = 0; i < kSavedRegisters; ++i) *--top = 0;
  stack_pointer_ = top;
  fake_stack_ = nullptr;
}

void Fiber::Arrived(Fiber& fiber) {
  const void* bottom = nullptr;
  size_t bytes = 0;
  FinishSwitchFiber(fiber.fake_stack_, &bottom, &bytes);
  if (leaving->stack_ == nullptr) {  // the host thread's: known only now
    leaving->stack_bottom_ = bottom;
    leaving->stack_bytes_ = bytes;
  }
}

void Fiber::Main() {
  Fiber& self = *arriving;
  Arrived(self);
  self.entry_(self.argument_);
  VITSCALE_CHECK(false) << "a fiber's entry returned";
}

void Fiber::Switch(Fiber& from, Fiber& to) {
  if (&from == &to) return;
  leaving = &from;
  arriving = &to;
  StartSwitchFiber(&from.fake_stack_, to.stack_bottom_, to.stack_bytes_);
  vitscale_switch_stack(&from.stack_pointer_, to.stack_pointer_);
  Arrived(from);
}

}  // namespace vitscale::cuda_on_cpu
