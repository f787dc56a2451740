// What the tests of seeded bugs share: each kernel is written twice, right and wrong, by a template
// parameter; the right one must pass where the wrong one is caught.

#ifndef TESTS_CUDA_ON_CPU_SEEDED_BUGS_H_
#define TESTS_CUDA_ON_CPU_SEEDED_BUGS_H_

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/dialect/async_copy.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/dialect/mma.h"
#include "tests/cuda_on_cpu/device_buffer.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {

enum Version { kRight, kWrong };

// Puts a kernel that fills `to` into the default stream and waits for it.
template <typename T, typename... Parameters, typename... Args>
std::vector<T> Result(void (*kernel)(Parameters...), int threads, size_t shared_bytes,
                      const cuda_on_cpu::Buffer<T>& to, Args... args) {
  EXPECT_THAT(
      Launch(kernel, 1, static_cast<unsigned>(threads), shared_bytes, nullptr, args..., to.get()),
      IsOk());
  return to.Values();
}

inline std::vector<float> Counting(int count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<float>(i);
  return values;
}

}  // namespace vitscale::cuda

#endif  // TESTS_CUDA_ON_CPU_SEEDED_BUGS_H_
