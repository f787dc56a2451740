// What the stand-in for NCCL refuses: mistakes that NCCL itself would answer with old values, a
// hang or worse.

#include "tests/cuda_on_cpu/nccl_standin.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/device_buffer.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda_on_cpu {
namespace {

// Rank 0 of so many, on device 0, and a stream.
class NcclStandinTest : public testing::Test {
 protected:
  NcclStandinTest() {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(nccl_.GetUniqueId(&id_), ncclSuccess);
  }
  ~NcclStandinTest() override {
    if (comm_ != nullptr) (void)nccl_.CommAbort(comm_);
    (void)cudaStreamDestroy(stream_);
  }
  void Init(int ranks, int blocking = 0) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    ASSERT_EQ(nccl_.CommInitRankConfig(&comm_, ranks, id_, 0, &config), ncclInProgress);
  }
  ncclResult_t State() {
    ncclResult_t state = ncclSuccess;
    EXPECT_EQ(nccl_.CommGetAsyncError(comm_, &state), ncclSuccess);
    return state;
  }
  ncclResult_t Gather() {
    return nccl_.AllGather(from_.get(), to_.get(), kBytes, ncclUint8, comm_, stream_);
  }

  static constexpr size_t kBytes = 16;
  const cuda::NcclLibrary nccl_ = NcclStandin();
  ncclUniqueId id_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  const Buffer<uint8_t> from_{std::vector<uint8_t>(kBytes, 1)};
  const Buffer<uint8_t> to_{std::vector<uint8_t>(kBytes, 2)};
};

TEST_F(NcclStandinTest, AnOperationIsInTheStreamOnceItWasAskedForUntilItSettled) {
  Init(1);
  EXPECT_EQ(State(), ncclSuccess);
  ASSERT_EQ(Gather(), ncclInProgress);
  EXPECT_EQ(State(), ncclInProgress);
  EXPECT_EQ(State(), ncclSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(to_.Values(), std::vector<uint8_t>(kBytes, 1));
}

TEST_F(NcclStandinTest, WhoDoesNotAskFindsOldValues) {
  Init(1);
  EXPECT_EQ(State(), ncclSuccess);
  ASSERT_EQ(Gather(), ncclInProgress);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(to_.Values(), std::vector<uint8_t>(kBytes, 2));
  EXPECT_EQ(Gather(), ncclInvalidUsage);  // and may not go on
}

// A bucket that backward still writes.
TEST_F(NcclStandinTest, ASumThatBeginsBeforeItsBucketIsCompleteIsCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Buffer<float> bucket{std::vector<float>(4, 1)};
  cudaStream_t backward = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&backward, cudaStreamNonBlocking), cudaSuccess);
  Init(1);
  EXPECT_EQ(State(), ncclSuccess);
  const auto sum_behind_a_write = [&](bool wait) {
    (void)cudaMemsetAsync(bucket.get(), 0, 4 * sizeof(float), backward);
    if (wait) (void)cudaStreamSynchronize(backward);
    (void)nccl_.AllReduce(bucket.get(), bucket.get(), 4, ncclFloat32, ncclSum, comm_, stream_);
    (void)State();
    (void)State();
    (void)cudaStreamSynchronize(backward);  // as a step does in the end
    (void)cudaStreamSynchronize(stream_);
  };
  EXPECT_DEATH(sum_behind_a_write(false), "all-reduce of rank 0 began before its 16 bytes were");
  sum_behind_a_write(true);
  EXPECT_EQ(bucket.Values(), std::vector<float>(4, 0));
  (void)cudaStreamDestroy(backward);
}

TEST_F(NcclStandinTest, ACallThatBlocksBehindACollectiveIsCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto block = [this] {
    SetDeviceCount(2);
    Init(2);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t other = nullptr;
    (void)cudaSetDevice(1);
    (void)nccl_.CommInitRankConfig(&other, 2, id_, 1, &config);
    (void)cudaSetDevice(0);
    (void)State();
    (void)Gather();
    (void)State();
    (void)State();
    (void)cudaStreamSynchronize(stream_);
  };
  EXPECT_DEATH(block(), "a call that blocks waits for stream [0-9]+, which waits for ranks");
}

TEST_F(NcclStandinTest, ACommunicatorThatBlocksIsCaught) {
  EXPECT_DEATH(Init(1, /*blocking=*/1), "an NCCL communicator that blocks");
}

TEST_F(NcclStandinTest, ACommunicatorThatIsUsedAfterItsAbortIsCaught) {
  Init(1);
  const ncclComm_t aborted = comm_;
  EXPECT_EQ(nccl_.CommAbort(aborted), ncclSuccess);
  comm_ = nullptr;
  ncclResult_t state = ncclSuccess;
  EXPECT_DEATH((void)nccl_.CommGetAsyncError(aborted, &state), "is used that does not exist");
}

TEST_F(NcclStandinTest, TwoRanksOnOneDeviceAreRefused) {
  Init(2);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t other = nullptr;
  EXPECT_EQ(nccl_.CommInitRankConfig(&other, 2, id_, 1, &config), ncclInvalidUsage);
  EXPECT_STREQ(nccl_.GetLastError(nullptr), "two ranks on one device");
  EXPECT_EQ(State(), ncclInProgress);
}

TEST_F(NcclStandinTest, AStreamOfAnotherDeviceIsRefused) {
  SetDeviceCount(2);
  (void)cudaSetDevice(1);
  Init(1);
  (void)cudaSetDevice(0);
  EXPECT_EQ(State(), ncclSuccess);
  EXPECT_EQ(Gather(), ncclInvalidArgument);
}

}  // namespace
}  // namespace vitscale::cuda_on_cpu
