// Bugs seeded in what the threads of a block do together and in global memory.

#include "tests/cuda_on_cpu/schedule.h"
#include "tests/cuda_on_cpu/seeded_bugs.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;

constexpr int kThreads = 64;

// ---- warps
// ---------------------------------------------------------------------------------------

// y[lane] = sum of x, in all lanes. The wrong kernel lets only those with work come.
template <Version version>
__global__ void SumOfWork(const float* x, int count, float* y) {
  float sum = 0;
  if (version == kRight) {
    sum = WarpSum(Lane() < count ? x[Lane()] : 0.0f);
  } else if (Lane() < count) {
    sum = WarpSum(x[Lane()]);
  }
  y[Lane()] = sum;
}

TEST(SeededBugTest, MissingLaneIsCaught) {
  const Buffer<float> x(Counting(20)), y(kWarpLanes);
  EXPECT_EQ(Result(SumOfWork<kRight>, kWarpLanes, 0, y, x.get(), 20),
            std::vector<float>(kWarpLanes, 190.0f));
  EXPECT_DEATH(Result(SumOfWork<kWrong>, kWarpLanes, 0, y, x.get(), 20),
               "lanes are missing at a shuffle: 20 of 32 lanes of warp 0 came; lane 20 has "
               "returned\n  at .*thread_bugs_test.cc:[0-9]+");
}

TEST(SeededBugTest, WarpOfABlockThatIsNoMultipleOf32IsCaught) {
  const Buffer<float> x(Counting(20)), y(kWarpLanes);
  EXPECT_DEATH(Result(SumOfWork<kRight>, 24, 0, y, x.get(), 20),
               "the block has only 24 threads in this warp");
}

// Both halves of the warp come, each to a shuffle of its own.
template <Version version>
__global__ void SumOfHalves(const float* x, float* y) {
  float sum = 0;
  if (version == kRight) {
    sum = WarpSum<16>(Lane() < 16 ? x[Lane()] : -x[Lane()]);
  } else if (Lane() < 16) {
    sum = WarpSum<16>(x[Lane()]);
  } else {
    sum = WarpSum<16>(-x[Lane()]);
  }
  y[Lane()] = sum;
}

TEST(SeededBugTest, LanesAtTwoCollectivesAreCaught) {
  const Buffer<float> x(Counting(kWarpLanes)), y(kWarpLanes);
  (void)Result(SumOfHalves<kRight>, kWarpLanes, 0, y, x.get());
  EXPECT_DEATH(Result(SumOfHalves<kWrong>, kWarpLanes, 0, y, x.get()),
               "lanes of one warp stand at two collectives, the other at "
               ".*thread_bugs_test.cc:[0-9]+\n  at .*thread_bugs_test.cc:[0-9]+");
}

// ---- barriers
// ------------------------------------------------------------------------------------

enum BarrierBug { kSound, kSkippedByReturn, kInOneBranch, kInBothBranches };

template <BarrierBug bug>
__global__ void Meet(float* y) {
  const int i = static_cast<int>(threadIdx.x);
  if (bug == kSkippedByReturn && i >= 48) return;
  if (bug == kInOneBranch && i < 48) BlockBarrier();
  if (bug == kInBothBranches) {
    if (i < 48) {
      BlockBarrier();
    } else {
      y[i] = 0;
      BlockBarrier();
    }
  }
  BlockBarrier();
  y[i] = static_cast<float>(i);
}

template <BarrierBug bug>
std::vector<float> Met() {
  const Buffer<float> y(kThreads);
  return Result(Meet<bug>, kThreads, 0, y);
}

TEST(SeededBugTest, BarrierThatAllReachPasses) { EXPECT_EQ(Met<kSound>(), Counting(kThreads)); }

TEST(SeededBugTest, BarrierBehindAnEarlyReturnIsCaught) {
  EXPECT_DEATH(Met<kSkippedByReturn>(), "returned.*\n  at .*thread_bugs_test.cc:[0-9]+");
}
TEST(SeededBugTest, BarrierInDivergentCodeIsCaught) {
  EXPECT_DEATH(Met<kInOneBranch>(),
               "wait at two block barriers, the other at .*thread_bugs_test.cc:[0-9]+");
}
TEST(SeededBugTest, BarriersInBothBranchesAreCaught) {
  EXPECT_DEATH(Met<kInBothBranches>(), "wait at two block barriers");
}

// ---- global memory
// -------------------------------------------------------------------------------

// The tail: the last block has more threads than elements.
template <Version version>
__global__ void Copy(const float* x, int count, float* y) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count || (version == kWrong && i == count)) y[i] = x[i];
}

TEST(SeededBugTest, OffByOneTailIsCaught) {
  const Buffer<float> x(Counting(50)), y(50);
  EXPECT_EQ(Result(Copy<kRight>, kThreads, 0, y, x.get(), 50), Counting(50));
  EXPECT_DEATH(Result(Copy<kWrong>, kThreads, 0, y, x.get(), 50),
               "AddressSanitizer: heap-buffer-overflow");
}

template <Version version>
__global__ void CopyPairs(const float* x, float* y) {
  const int i = 2 * static_cast<int>(threadIdx.x);
  StoreVec(y + i, LoadVec<2>(x + (version == kRight ? i : i + 1)));
}

TEST(SeededBugTest, VectorLoadFromAnOddAddressIsCaught) {
  const Buffer<float> x(Counting(66)), y(64);
  EXPECT_EQ(Result(CopyPairs<kRight>, 32, 0, y, x.get()), Counting(64));
  EXPECT_DEATH(Result(CopyPairs<kWrong>, 32, 0, y, x.get()),
               "an access of 8 bytes at address 0x[0-9a-f]+, no multiple of it");
}

// The address of a plain pointer is not checked by the dialect but by the compiler's sanitizer.
template <Version version>
__global__ void CopyWords(const char* x, float* y) {
  const int at = static_cast<int>(threadIdx.x * sizeof(float)) + (version == kRight ? 0 : 2);
  y[threadIdx.x] = *reinterpret_cast<const float*>(x + at);
}

TEST(SeededBugTest, MisalignedPlainPointerIsCaught) {
  const Buffer<float> x(Counting(33)), y(32);
  const auto* bytes = reinterpret_cast<const char*>(x.get());
  EXPECT_EQ(Result(CopyWords<kRight>, 32, 0, y, bytes), Counting(32));
  EXPECT_DEATH(Result(CopyWords<kWrong>, 32, 0, y, bytes), "runtime error: .*misaligned address");
}

TEST(SeededBugTest, HostMemoryAsAnArgumentIsCaught) {
  const std::vector<float> host = Counting(50);
  const Buffer<float> y(50);
  EXPECT_DEATH(Result(Copy<kRight>, kThreads, 0, y, host.data(), 50),
               "an argument of kernel .*Copy.* points to memory that is not the device's");
}

// Whoever comes first decides: that differs from schedule to schedule.
template <Version version>
__global__ void Claim(int* owner) {
  const int i = static_cast<int>(threadIdx.x);
  if (version == kRight ? i == 0 : *owner < 0) *owner = i;
}

TEST(SeededBugTest, ResultThatDependsOnTheScheduleDiffersFromSeedToSeed) {
  const auto owner = [](void (*kernel)(int*), uint64_t seed) {
    const cuda_on_cpu::ScopedSchedule schedule(seed);
    const Buffer<int> to(std::vector<int>{-1});
    return Result(kernel, kThreads, 0, to).front();
  };
  EXPECT_EQ(owner(Claim<kRight>, 0), owner(Claim<kRight>, 1));
  EXPECT_NE(owner(Claim<kWrong>, 0), owner(Claim<kWrong>, 1));
}

// ---- tensor cores
// --------------------------------------------------------------------------------

struct Tiles {
  SharedArray<Bf16, 16 * 16> a;
  SharedArray<Bf16, 16 * 8> b;
};

// c[16, 8] = a[16, 16] b[16, 8]; b lies row by row, so its fragments need the transposed load.
template <Version version>
__global__ void Product(const Bf16* a, const Bf16* b, float* c) {
  Tiles& shared = SharedMemory<Tiles>();
  const int lane = Lane();
  CopyAsync(shared.a.At(lane * 8), a + lane * 8, true);
  if (lane < 16) CopyAsync(shared.b.At(lane * 8), b + lane * 8, true);
  CopyCommit();
  CopyWait<0>();
  BlockBarrier();
  FragmentA left;
  FragmentB right;
  LoadMatrix<4>(left.r, shared.a.At(lane % 16 * 16 + lane / 16 * 8));
  LoadMatrix<2, version == kRight>(right.r, shared.b.At(lane % 16 * 8));
  FragmentC sum = {};
  MmaBf16(sum, left, right);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum.v[i];
}

TEST(SeededBugTest, SwappedTransposeGivesAnotherProduct) {
  std::vector<Bf16> a(256), b(128);
  for (size_t i = 0; i < a.size(); ++i) FromFloat(static_cast<float>(i % 13) - 6, a[i]);
  for (size_t i = 0; i < b.size(); ++i) FromFloat(static_cast<float>(i % 11) - 5, b[i]);
  std::vector<float> want(128);
  for (size_t m = 0; m < 16; ++m) {
    for (size_t n = 0; n < 8; ++n) {
      for (size_t k = 0; k < 16; ++k) {
        want[m * 8 + n] += ToFloat(a[m * 16 + k]) * ToFloat(b[k * 8 + n]);
      }
    }
  }
  const Buffer<Bf16> left(a), right(b);
  const Buffer<float> c(128);
  EXPECT_EQ(Result(Product<kRight>, 32, sizeof(Tiles), c, left.get(), right.get()), want);
  EXPECT_NE(Result(Product<kWrong>, 32, sizeof(Tiles), c, left.get(), right.get()), want);
}

}  // namespace
}  // namespace vitscale::cuda
