// How the layer says that a kernel, or its host code, is wrong: it names what, where and who, and
// aborts.

#ifndef TESTS_CUDA_ON_CPU_FAULT_H_
#define TESTS_CUDA_ON_CPU_FAULT_H_

#include <string>

#include "absl/strings/string_view.h"

namespace vitscale::cuda_on_cpu {

// A return address: where a kernel called the dialect.
using CodePlace = void*;

// "kernels/cuda/loss.cu:120": the innermost line outside the dialect's own headers.
std::string PlaceName(CodePlace place);

// Whether two return addresses are one place of the source: a compiler may copy a line.
bool SamePlace(CodePlace a, CodePlace b);

// The name of a function.
std::string FunctionName(const void* function);

// Prints `what`, the kernel, the block, the thread that runs now, and aborts.
[[noreturn]] void Fault(absl::string_view what, CodePlace place = nullptr);

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_FAULT_H_
