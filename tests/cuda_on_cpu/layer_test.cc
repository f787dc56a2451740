// What the layer does with kernels that are right.

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/launch.h"
#include "tests/cuda_on_cpu/device_buffer.h"
#include "tests/cuda_on_cpu/schedule.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;
using cuda_on_cpu::ScopedSchedule;

struct SumShared {
  WarpSlots<float> slots;
};

// y[block] = sum of x over the block's part.
__global__ void SumPerBlock(const float* x, float* y, int count) {
  SumShared& shared = SharedMemory<SumShared>();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const float sum = BlockSum(i < count ? x[i] : 0.0f, shared.slots);
  if (threadIdx.x == 0) y[blockIdx.x] = sum;
}

TEST(CudaLayerTest, BlocksSumWhatTheirThreadsHold) {
  for (uint64_t seed : {0, 1, 2}) {
    const ScopedSchedule schedule(seed);
    std::vector<float> x(1000);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7);
    const Buffer<float> from(x), to(4);
    ASSERT_THAT(Launch(SumPerBlock, 4, 256, sizeof(SumShared), nullptr, from.get(), to.get(), 1000),
                IsOk());
    std::vector<float> want(4);
    for (size_t i = 0; i < x.size(); ++i) want[i / 256] += x[i];
    EXPECT_EQ(to.Values(), want) << "schedule " << seed;
  }
}

}  // namespace
}  // namespace vitscale::cuda
