// Bugs seeded in what kernels do with shared memory, each caught by name.

#include <algorithm>

#include "tests/cuda_on_cpu/seeded_bugs.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;

constexpr int kThreads = 64;

struct Values {
  SharedArray<float, kThreads> x;
};

// y[i] = x[i + 1], around the end.
template <Version version>
__global__ void Rotate(const float* x, float* y) {
  Values& shared = SharedMemory<Values>();
  const int i = static_cast<int>(threadIdx.x);
  shared.x[i] = x[i];
  if (version == kRight) BlockBarrier();
  y[i] = shared.x[(i + 1) % kThreads];
}

std::vector<float> Rotated(int count) {
  std::vector<float> values = Counting(count);
  std::rotate(values.begin(), values.begin() + 1, values.end());
  return values;
}

// A race is found by the order that barriers give, whatever the schedule: here the wrong kernel
// writes before it reads in every schedule of one warp.
TEST(SeededBugTest, DroppedBarrierIsCaught) {
  const Buffer<float> x(Counting(kThreads)), y(kThreads);
  EXPECT_EQ(Result(Rotate<kRight>, kThreads, sizeof(Values), y, x.get()), Rotated(kThreads));
  EXPECT_DEATH(Result(Rotate<kWrong>, kThreads, sizeof(Values), y, x.get()),
               "has not written\n  at .*shared_bugs_test.cc:[0-9]+");
}

// Everybody reads before anybody writes again.
template <Version version>
__global__ void Double(const float* x, float* y) {
  Values& shared = SharedMemory<Values>();
  const int i = static_cast<int>(threadIdx.x);
  shared.x[i] = x[i];
  BlockBarrier();
  const float next = shared.x[(i + 1) % kThreads];
  if (version == kRight) BlockBarrier();
  shared.x[i] = 2 * next;
  y[i] = shared.x[i];
}

TEST(SeededBugTest, WriteBehindAReadWithoutBarrierIsCaught) {
  const Buffer<float> x(Counting(kThreads)), y(kThreads);
  std::vector<float> want = Rotated(kThreads);
  for (float& value : want) value *= 2;
  EXPECT_EQ(Result(Double<kRight>, kThreads, sizeof(Values), y, x.get()), want);
  EXPECT_DEATH(Result(Double<kWrong>, kThreads, sizeof(Values), y, x.get()),
               "race in shared memory.*\n  at .*shared_bugs_test.cc:[0-9]+");
}

struct WarpValues {
  SharedArray<float, kWarpLanes> x;
};

// A shuffle makes lanes meet, but orders no memory.
template <Version version>
__global__ void RotateInWarp(const float* x, float* y) {
  WarpValues& shared = SharedMemory<WarpValues>();
  shared.x[Lane()] = x[Lane()];
  if (version == kRight) {
    WarpBarrier();
  } else {
    (void)Shuffle(0, 0);
  }
  y[Lane()] = shared.x[(Lane() + 1) % kWarpLanes];
}

TEST(SeededBugTest, ShuffleInPlaceOfAWarpBarrierIsCaught) {
  const Buffer<float> x(Counting(kWarpLanes)), y(kWarpLanes);
  EXPECT_EQ(Result(RotateInWarp<kRight>, kWarpLanes, sizeof(WarpValues), y, x.get()),
            Rotated(kWarpLanes));
  EXPECT_DEATH(Result(RotateInWarp<kWrong>, kWarpLanes, sizeof(WarpValues), y, x.get()),
               "race in shared memory: this thread reads what thread [0-9]+ wrote");
}

// A warp barrier orders nothing between warps.
template <Version version>
__global__ void RotateBlockByWarpBarrier(const float* x, float* y) {
  Values& shared = SharedMemory<Values>();
  const int i = static_cast<int>(threadIdx.x);
  shared.x[i] = x[i];
  if (version == kRight) BlockBarrier();
  if (version == kWrong) WarpBarrier();
  y[i] = shared.x[(i + kThreads - 1) % kThreads];
}

TEST(SeededBugTest, WarpBarrierInPlaceOfABlockBarrierIsCaught) {
  const Buffer<float> x(Counting(kThreads)), y(kThreads);
  (void)Result(RotateBlockByWarpBarrier<kRight>, kThreads, sizeof(Values), y, x.get());
  EXPECT_DEATH(Result(RotateBlockByWarpBarrier<kWrong>, kThreads, sizeof(Values), y, x.get()),
               "cuda_on_cpu: .*shared memory");
}

template <Version version>
__global__ void Spread(const float* x, float* y) {
  Values& shared = SharedMemory<Values>();
  const int i = static_cast<int>(threadIdx.x);
  shared.x[i + (version == kWrong ? 1 : 0)] = x[i];
  y[i] = x[i];
}

TEST(SeededBugTest, SharedIndexOutOfBoundsIsCaught) {
  const Buffer<float> x(Counting(kThreads)), y(kThreads);
  (void)Result(Spread<kRight>, kThreads, sizeof(Values), y, x.get());
  EXPECT_DEATH(Result(Spread<kWrong>, kThreads, sizeof(Values), y, x.get()),
               "elements 64 to 64 of a shared array of 64\n  at .*shared_bugs_test.cc:[0-9]+");
}

// Half of the array is never written.
template <Version version>
__global__ void Half(const float* x, float* y) {
  Values& shared = SharedMemory<Values>();
  const int i = static_cast<int>(threadIdx.x);
  if (version == kRight || i % 2 == 0) shared.x[i] = x[i];
  BlockBarrier();
  y[i] = shared.x[i];
}

TEST(SeededBugTest, UninitialisedSharedReadIsCaught) {
  const Buffer<float> x(Counting(kThreads)), y(kThreads);
  EXPECT_EQ(Result(Half<kRight>, kThreads, sizeof(Values), y, x.get()), Counting(kThreads));
  EXPECT_DEATH(Result(Half<kWrong>, kThreads, sizeof(Values), y, x.get()),
               "shared memory is read that this block has not written");
}

// The second block must not live on what the first has left.
__global__ void FirstBlockOnly(float* y) {
  Values& shared = SharedMemory<Values>();
  const int i = static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0) shared.x[i] = 1;
  BlockBarrier();
  y[i] = shared.x[i];
}

TEST(SeededBugTest, SharedMemoryOfAnEarlierBlockIsNotInherited) {
  const Buffer<float> y(kThreads);
  EXPECT_THAT(Launch(FirstBlockOnly, 1, kThreads, sizeof(Values), nullptr, y.get()), IsOk());
  EXPECT_EQ(y.Values(), std::vector<float>(kThreads, 1.0f));
  EXPECT_DEATH(
      {
        (void)Launch(FirstBlockOnly, 2, kThreads, sizeof(Values), nullptr, y.get());
        (void)cudaDeviceSynchronize();
      },
      "has not written\n(.*\n)*  block \\(1, 0, 0\\)");
}

TEST(SeededBugTest, LaunchWithTooLittleSharedMemoryIsCaught) {
  const Buffer<float> x(Counting(kThreads)), y(kThreads);
  EXPECT_DEATH(Result(Half<kRight>, kThreads, sizeof(Values) - 16, y, x.get()),
               "the kernel's shared memory is 256 bytes, the launch asked for 240");
}

// ---- neighbours
// ----------------------------------------------------------------------------------

struct Halves {
  SharedArray<Bf16, kThreads> x;
};

// Two threads write the two halves of every word: no race.
__global__ void Neighbours(const float* x, float* y) {
  Halves& shared = SharedMemory<Halves>();
  const int i = static_cast<int>(threadIdx.x);
  shared.x[i] = Rounded<Bf16>(x[i]);
  BlockBarrier();
  const Vec<Bf16, 2> pair = shared.x.Load<2>(i / 2 * 2);
  y[i] = ToFloat(pair[i % 2]);
}

TEST(SeededBugTest, NeighboursInOneWordAreNoRace) {
  const Buffer<float> x(Counting(kThreads)), y(kThreads);
  EXPECT_EQ(Result(Neighbours, kThreads, sizeof(Halves), y, x.get()), Counting(kThreads));
}

// ---- copies
// --------------------------------------------------------------------------------------

struct Copied {
  SharedArray<float, 2 * kWarpLanes * 4> x;
};

enum CopyBug { kNone, kNoWait, kNoCommit, kPendingTooHigh, kNoBarrier, kNeverAwaited };

// y[lane] = first element that lane + 1 copied, of the second of two groups.
template <CopyBug bug>
__global__ void CopyAndRotate(const float* x, float* y) {
  Copied& shared = SharedMemory<Copied>();
  for (int group = 0; group < 2; ++group) {
    const int at = (group * kWarpLanes + Lane()) * 4;
    CopyAsync(shared.x.At(at), x + at, true);
    if (bug != kNoCommit) CopyCommit();
  }
  if (bug == kPendingTooHigh) CopyWait<1>();
  if (bug != kNoWait && bug != kPendingTooHigh && bug != kNeverAwaited) CopyWait<0>();
  if (bug != kNoBarrier) BlockBarrier();
  if (bug == kNeverAwaited) return;
  y[Lane()] = shared.x[(kWarpLanes + (Lane() + 1) % kWarpLanes) * 4];
}

template <CopyBug bug>
std::vector<float> CopiedAndRotated() {
  const Buffer<float> x(Counting(2 * kWarpLanes * 4)), y(kWarpLanes);
  return Result(CopyAndRotate<bug>, kWarpLanes, sizeof(Copied), y, x.get());
}

TEST(SeededBugTest, CopiesArriveBehindWaitAndBarrier) {
  std::vector<float> want;
  for (int i = 0; i < kWarpLanes; ++i) {
    want.push_back(static_cast<float>((kWarpLanes + (i + 1) % kWarpLanes) * 4));
  }
  EXPECT_EQ(CopiedAndRotated<kNone>(), want);
}

TEST(SeededBugTest, MissingCopyWaitIsCaught) {
  EXPECT_DEATH(CopiedAndRotated<kNoWait>(), "read while a copy into it is under way");
}
TEST(SeededBugTest, MissingCopyCommitIsCaught) {
  EXPECT_DEATH(CopiedAndRotated<kNoCommit>(), "read while a copy into it is under way");
}
TEST(SeededBugTest, WrongPendingCountIsCaught) {
  EXPECT_DEATH(CopiedAndRotated<kPendingTooHigh>(), "read while a copy into it is under way");
}
TEST(SeededBugTest, CopyOfAnotherLaneWithoutBarrierIsCaught) {
  EXPECT_DEATH(CopiedAndRotated<kNoBarrier>(), "cuda_on_cpu: .*shared memory");
}
TEST(SeededBugTest, CopyThatNobodyAwaitsIsCaught) {
  EXPECT_DEATH(CopiedAndRotated<kNeverAwaited>(), "returns with 2 copies under way");
}

// The tile is refilled while the other warps may still read it.
template <Version version>
__global__ void Refill(const float* x, float* y) {
  Copied& shared = SharedMemory<Copied>();
  const int i = static_cast<int>(threadIdx.x);
  for (int turn = 0; turn < 2; ++turn) {
    CopyAsync(shared.x.At(i * 4), x + i * 4, true);
    CopyCommit();
    CopyWait<0>();
    BlockBarrier();
    y[i] = shared.x[(kThreads - 1 - i) * 4];
    if (version == kRight) BlockBarrier();
  }
}

TEST(SeededBugTest, CopyIntoATileThatIsStillReadIsCaught) {
  const Buffer<float> x(Counting(kThreads * 4)), y(kThreads);
  (void)Result(Refill<kRight>, kThreads, sizeof(Copied), y, x.get());
  EXPECT_DEATH(Result(Refill<kWrong>, kThreads, sizeof(Copied), y, x.get()),
               "cuda_on_cpu: .*shared memory");
}

}  // namespace
}  // namespace vitscale::cuda
