// Several devices: what is a thread's, what is a device's, and what kernels are allowed on which.

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/dialect/launch.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/device_buffer.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;
using testing::HasSubstr;

constexpr int kCount = 32;
constexpr size_t kMuch = 100 * 1024;  // of shared memory; more than comes without asking

// One kernel per test: what is allowed stays allowed as long as the process lives.
template <int kTest>
__global__ void Increment(float* x) {
  x[threadIdx.x] += static_cast<float>(kTest);
}

class DevicesTest : public testing::Test {
 protected:
  DevicesTest() { cuda_on_cpu::SetDeviceCount(2); }
  ~DevicesTest() override {
    Use(0);
    cuda_on_cpu::SetDeviceCount(1);
  }
  static void Use(int device) { ASSERT_EQ(cudaSetDevice(device), cudaSuccess); }
  template <int kTest>
  static absl::Status LaunchWith(size_t shared_bytes) {
    const Buffer<float> x(std::vector<float>(kCount, 1.0f));
    VITSCALE_RETURN_IF_ERROR(Launch(Increment<kTest>, 1, kCount, shared_bytes, nullptr, x.get()));
    EXPECT_EQ(x.Values(), std::vector<float>(kCount, 1.0f + kTest));
    return absl::OkStatus();
  }
};

const auto Refused() {
  return StatusIs(absl::StatusCode::kInternal, HasSubstr("launch: invalid argument"));
}

TEST_F(DevicesTest, MoreSharedMemoryIsRefusedUntilItIsAllowed) {
  EXPECT_THAT(LaunchWith<1>(kSharedBytesWithoutAsking), IsOk());
  EXPECT_THAT(LaunchWith<1>(kMuch), Refused());
  ASSERT_THAT(AllowSharedBytes(Increment<1>, kMuch), IsOk());
  EXPECT_THAT(LaunchWith<1>(kMuch), IsOk());
}

TEST_F(DevicesTest, SharedMemoryIsAllowedOnOneDeviceAlone) {
  Use(1);
  ASSERT_THAT(AllowSharedBytes(Increment<2>, kMuch), IsOk());
  Use(0);
  EXPECT_THAT(LaunchWith<2>(kMuch), Refused());
  Use(1);
  EXPECT_THAT(LaunchWith<2>(kMuch), IsOk());
}

// Two programs may ask for one kernel, in any order.
TEST_F(DevicesTest, AskingForLessLaterTakesNothingAway) {
  ASSERT_THAT(AllowSharedBytes(Increment<3>, kMuch), IsOk());
  ASSERT_THAT(AllowSharedBytes(Increment<3>, kMuch / 2 + 1), IsOk());
  ASSERT_THAT(AllowSharedBytes(Increment<3>, 16), IsOk());
  EXPECT_THAT(LaunchWith<3>(kMuch), IsOk());
}

TEST_F(DevicesTest, MoreSharedMemoryThanTheDeviceHasIsRefusedWithBothSizes) {
  EXPECT_THAT(AllowSharedBytes(Increment<4>, 300 * 1024),
              StatusIs(absl::StatusCode::kInternal,
                       HasSubstr("wants 307200 bytes of shared memory, the device has 232448")));
}

TEST_F(DevicesTest, AnotherThreadHasADeviceOfItsOwn) {
  Use(1);
  std::thread([] {
    int device = -1;
    EXPECT_EQ(cudaGetDevice(&device), cudaSuccess);
    EXPECT_EQ(device, 0);
  }).join();
}

TEST_F(DevicesTest, LaunchIntoAStreamOfAnotherDeviceIsRefused) {
  cudaStream_t stream = nullptr;
  const Buffer<float> x(kCount);
  Use(1);
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  Use(0);
  EXPECT_THAT(Launch(Increment<5>, 1, kCount, 0, stream, x.get()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("launch: invalid resource handle")));
  (void)cudaStreamDestroy(stream);
}

TEST_F(DevicesTest, MemoryFreedByAThreadOfAnotherDeviceIsCaught) {
  void* memory = nullptr;
  Use(1);
  ASSERT_EQ(cudaMalloc(&memory, 64), cudaSuccess);
  Use(0);
  EXPECT_DEATH((void)cudaFree(memory),
               "cudaFree of memory of device 1 by a thread that uses device 0");
  Use(1);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

}  // namespace
}  // namespace vitscale::cuda
