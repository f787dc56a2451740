// What the layer does with kernels that are right.

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/dialect/async_copy.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/dialect/mma.h"
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

struct TileShared {
  SharedArray<Bf16, 16 * 16> a;
  SharedArray<Bf16, 16 * 8> b;
};

// c[16, 8] = a[16, 16] b[16, 8]
__global__ void Product(const Bf16* a, const Bf16* b, float* c) {
  TileShared& shared = SharedMemory<TileShared>();
  const int lane = Lane();
  CopyAsync(shared.a.At(lane * 8), a + lane * 8, true);
  if (lane < 16) CopyAsync(shared.b.At(lane * 8), b + lane * 8, true);
  CopyCommit();
  CopyWait<0>();
  BlockBarrier();
  FragmentA left;
  FragmentB right;
  LoadMatrix<4>(left.r, shared.a.At(lane % 16 * 16 + lane / 16 * 8));
  LoadMatrix<2, true>(right.r, shared.b.At(lane % 16 * 8));
  FragmentC sum = {};
  MmaBf16(sum, left, right);
  const int row = lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; ++i) c[(row + i / 2 * 8) * 8 + column + i % 2] = sum.v[i];
}

TEST(CudaLayerTest, TensorCoresMultiplyWhatLoadMatrixLoads) {
  std::vector<Bf16> a(256), b(128);
  for (size_t i = 0; i < a.size(); ++i) FromFloat(static_cast<float>(i % 13) - 6, a[i]);
  for (size_t i = 0; i < b.size(); ++i) FromFloat(static_cast<float>(i % 11) - 5, b[i]);
  std::vector<float> want(128);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      for (int k = 0; k < 16; ++k)
        want[m * 8 + n] += ToFloat(a[m * 16 + k]) * ToFloat(b[k * 8 + n]);
    }
  }
  const Buffer<Bf16> left(a), right(b);
  const Buffer<float> product(128);
  ASSERT_THAT(
      Launch(Product, 1, 32, sizeof(TileShared), nullptr, left.get(), right.get(), product.get()),
      IsOk());
  EXPECT_EQ(product.Values(), want);
}

}  // namespace
}  // namespace vitscale::cuda
