// Bugs seeded in what host code does with streams, events and memory, and what the stand-in for the
// runtime counts and refuses.

#include <cstdio>

#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/seeded_bugs.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;
using testing::HasSubstr;

constexpr int kCount = 64;

__global__ void Increment(float* x) { x[threadIdx.x] += 1; }

class TwoStreamsTest : public testing::Test {
 protected:
  TwoStreamsTest() : x_(Counting(kCount)) {
    for (cudaStream_t* stream : {&first_, &second_}) {
      EXPECT_EQ(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), cudaSuccess);
    }
    EXPECT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
  }
  ~TwoStreamsTest() override {
    for (cudaStream_t stream : {first_, second_}) (void)cudaStreamDestroy(stream);
    (void)cudaEventDestroy(event_);
  }
  void IncrementIn(cudaStream_t stream) {
    EXPECT_THAT(Launch(Increment, 1, kCount, 0, stream, x_.get()), IsOk());
  }
  void SecondWaitsForFirst() {
    (void)cudaEventRecord(event_, first_);
    (void)cudaStreamWaitEvent(second_, event_, 0);
  }
  float FirstValue(cudaStream_t stream) {
    float value = -1;
    (void)cudaMemcpyAsync(&value, x_.get(), sizeof(value), cudaMemcpyDeviceToHost, stream);
    (void)cudaStreamSynchronize(stream);
    return value;
  }

  cudaStream_t first_ = nullptr, second_ = nullptr;
  cudaEvent_t event_ = nullptr;
  const Buffer<float> x_;
};

TEST_F(TwoStreamsTest, EventOrdersTwoStreams) {
  IncrementIn(first_);
  SecondWaitsForFirst();
  IncrementIn(second_);
  EXPECT_EQ(FirstValue(second_), 2);
}

TEST_F(TwoStreamsTest, MissingEventIsCaught) {
  IncrementIn(first_);
  EXPECT_DEATH(IncrementIn(second_),
               "two streams touch one buffer without an event between: kernel .*Increment.* on "
               "stream [0-9]+ writes what kernel .*Increment");
}

TEST_F(TwoStreamsTest, EventRecordedBeforeTheWorkIsCaught) {
  SecondWaitsForFirst();
  IncrementIn(first_);
  EXPECT_DEATH(FirstValue(second_), "without an event between: cudaMemcpyAsync on stream");
}

TEST_F(TwoStreamsTest, HostThatWaitsOrdersTwoStreams) {
  IncrementIn(first_);
  (void)cudaStreamSynchronize(first_);
  IncrementIn(second_);
  EXPECT_EQ(FirstValue(second_), 2);
}

TEST_F(TwoStreamsTest, CopiesOfDifferentPartsMayOverlap) {
  const std::vector<float> half(kCount / 2, 7.0f);
  const size_t bytes = half.size() * sizeof(float);
  (void)cudaMemcpyAsync(x_.get(), half.data(), bytes, cudaMemcpyHostToDevice, first_);
  (void)cudaMemcpyAsync(x_.get() + kCount / 2, half.data(), bytes, cudaMemcpyHostToDevice, second_);
  (void)cudaDeviceSynchronize();
  EXPECT_EQ(x_.Values(), std::vector<float>(kCount, 7.0f));
}

TEST_F(TwoStreamsTest, NothingRunsBeforeTheHostWaits) {
  IncrementIn(first_);
  (void)cudaEventRecord(event_, first_);
  EXPECT_EQ(cudaEventQuery(event_), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
  EXPECT_EQ(FirstValue(first_), 1);
}

TEST_F(TwoStreamsTest, PinnedMemoryReadBeforeTheCopyIsDoneIsCaught) {
  void* raw = nullptr;
  ASSERT_EQ(cudaHostAlloc(&raw, kCount * sizeof(float), cudaHostAllocDefault), cudaSuccess);
  const auto* host = static_cast<const float*>(raw);
  IncrementIn(first_);
  (void)cudaMemcpyAsync(raw, x_.get(), kCount * sizeof(float), cudaMemcpyDeviceToHost, first_);
  EXPECT_DEATH(std::printf("%f", host[0]), "AddressSanitizer: use-after-poison");
  (void)cudaStreamSynchronize(first_);
  EXPECT_EQ(host[0], 1);
  EXPECT_EQ(cudaFreeHost(raw), cudaSuccess);
}

TEST(SeededBugTest, HostThatReadsDeviceMemoryIsCaught) {
  const Buffer<float> x(Counting(kCount));
  EXPECT_DEATH(std::printf("%f", x.get()[0]), "AddressSanitizer: use-after-poison");
}

TEST(SeededBugTest, CopyBeyondABufferIsCaught) {
  const Buffer<float> x(Counting(kCount));
  std::vector<float> host(kCount + 1);
  EXPECT_DEATH(
      (void)cudaMemcpy(x.get(), host.data(), host.size() * sizeof(float), cudaMemcpyHostToDevice),
      "260 bytes at byte 0 of 256");
  host.resize(kCount - 1);
  host.shrink_to_fit();
  EXPECT_DEATH(
      (void)cudaMemcpy(host.data(), x.get(), kCount * sizeof(float), cudaMemcpyDeviceToHost),
      "256 bytes of host memory reach outside of a buffer");
}

TEST(SeededBugTest, CopyInTheWrongDirectionIsCaught) {
  const Buffer<float> x(Counting(kCount));
  float value = 0;
  EXPECT_DEATH((void)cudaMemcpy(&value, x.get(), sizeof(value), cudaMemcpyHostToDevice),
               "kind 1, but the pointers say 2");
}

// ---- what is counted and refused
// -----------------------------------------------------------------

TEST(CudaRuntimeTest, AllocationsAreCounted) {
  const cuda_on_cpu::DeviceCounts before = cuda_on_cpu::Counts();
  {
    const Buffer<float> x(kCount);
    EXPECT_EQ(cuda_on_cpu::Counts().allocations, before.allocations + 1);
    EXPECT_EQ(cuda_on_cpu::Counts().live_bytes, before.live_bytes + 4 * kCount);
  }
  EXPECT_EQ(cuda_on_cpu::Counts().live, before.live);
  EXPECT_EQ(cuda_on_cpu::Counts().live_bytes, before.live_bytes);
}

TEST(CudaRuntimeTest, TheNthAllocationFailsWhenTold) {
  cuda_on_cpu::FailAllocation(2);
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 64), cudaSuccess);
  (void)cudaFree(p);
  EXPECT_EQ(cudaMalloc(&p, 64), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&p, 64), cudaSuccess);
  (void)cudaFree(p);
}

TEST(CudaRuntimeTest, MemoryEndsWhereTheDeviceEnds) {
  cuda_on_cpu::SetDeviceMemory(1000);
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, 1001), cudaErrorMemoryAllocation);
  cuda_on_cpu::SetDeviceMemory(int64_t{80} << 30);
  (void)cudaGetLastError();
}

TEST(CudaRuntimeTest, LaunchesThatNoDeviceTakesAreRefused) {
  const Buffer<float> x(Counting(kCount));
  const auto launch = [&](dim3 grid, dim3 block, size_t shared_bytes) {
    return Launch(Increment, grid, block, shared_bytes, nullptr, x.get());
  };
  const auto refused = StatusIs(absl::StatusCode::kInternal, HasSubstr("launch: invalid"));
  EXPECT_THAT(launch(1, 1025, 0), refused);
  EXPECT_THAT(launch(0, 32, 0), refused);
  EXPECT_THAT(launch({1, 65536, 1}, 32, 0), refused);
  EXPECT_THAT(launch(1, 32, 227 * 1024 + 1), refused);
}

}  // namespace
}  // namespace vitscale::cuda
