#include "kernels/cuda/nccl/nccl_communicator.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_on_cpu/device_buffer.h"
#include "tests/cuda_on_cpu/nccl/device_ranks.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;
using cuda_on_cpu::CountCommunicators;
using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Span<float> Span(const Buffer<float>& buffer, size_t count) {
  return absl::MakeSpan(buffer.get(), count);
}
float ValueOf(int rank, size_t i) { return (1.0f + static_cast<float>(i)) / (3.0f + rank); }
std::vector<float> ValuesOf(int rank, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = ValueOf(rank, i);
  return values;
}

// `body` on every rank of a connected communicator.
void OnRanks(int ranks, const std::function<void(int rank, Communicator&)>& body) {
  const std::string id = MakeCommunicator(0)->NewId().value();
  OnThreads(ranks, [&](int rank) {
    const auto communicator = MakeCommunicator(rank);
    ASSERT_THAT(communicator->Connect(id, rank, ranks, absl::InfiniteDuration()), IsOk());
    body(rank, *communicator);
  });
}

absl::Status GatherOne(Communicator& communicator, int ranks) {
  std::string all(ranks, '\0');
  return communicator.AllGather("x", absl::MakeSpan(all));
}

TEST(NcclCommunicatorTest, SumsAreThoseOfALoopInRankOrderOnceAGatherHasReturned) {
  const std::vector<size_t> sizes = {1, 3, 257, 4096};
  OnRanks(3, [&](int rank, Communicator& communicator) {
    std::vector<std::unique_ptr<Buffer<float>>> buckets;
    for (const size_t size : sizes) {
      buckets.push_back(std::make_unique<Buffer<float>>(ValuesOf(rank, size)));
      ASSERT_THAT(communicator.AllReduceSum(Span(*buckets.back(), size)), IsOk());
    }
    ASSERT_THAT(GatherOne(communicator, 3), IsOk());
    for (size_t b = 0; b < sizes.size(); ++b) {
      std::vector<float> want(sizes[b]);
      for (size_t i = 0; i < want.size(); ++i) {
        want[i] = (ValueOf(0, i) + ValueOf(1, i)) + ValueOf(2, i);
      }
      EXPECT_EQ(buckets[b]->Values(), want) << "rank " << rank << ", bucket " << b;
    }
  });
}

// The second is longer than what is gathered at once, and no multiple of it.
TEST(NcclCommunicatorTest, EveryRankHasTheBytesOfAllInRankOrder) {
  OnRanks(3, [](int rank, Communicator& communicator) {
    for (const size_t size : {size_t{5}, size_t{40001}}) {
      const auto bytes_of = [size](int of) {
        std::string bytes(size, '\0');
        for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + of);
        return bytes;
      };
      std::string all(3 * size, '\0');
      ASSERT_THAT(communicator.AllGather(bytes_of(rank), absl::MakeSpan(all)), IsOk());
      EXPECT_TRUE(all == bytes_of(0) + bytes_of(1) + bytes_of(2)) << "rank " << rank;
    }
  });
}

TEST(NcclCommunicatorTest, AConnectWhosePeerNeverComesEndsAtItsDeadline) {
  const auto communicator = MakeCommunicator(0);
  const std::string id = communicator->NewId().value();
  EXPECT_THAT(communicator->Connect(id, 0, 2, absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("not all ranks came in time")));
}

TEST(NcclCommunicatorTest, AbortEndsAConnectThatNobodyAnswers) {
  const auto communicator = MakeCommunicator(0);
  const std::string id = communicator->NewId().value();
  std::thread aborter([&] { communicator->Abort(); });
  EXPECT_THAT(communicator->Connect(id, 0, 2, absl::InfiniteDuration()),
              StatusIs(absl::StatusCode::kCancelled));
  aborter.join();
}

TEST(NcclCommunicatorTest, AbortEndsAGatherThatNobodyJoinsAndEveryLaterCall) {
  absl::Notification ended;
  OnRanks(2, [&](int rank, Communicator& communicator) {
    if (rank == 1) return ended.WaitForNotification();
    const Buffer<float> values(ValuesOf(0, 100));
    ASSERT_THAT(communicator.AllReduceSum(Span(values, 100)), IsOk());
    std::thread aborter([&] {
      for (int i = 0; i < 3; ++i) communicator.Abort();
    });
    EXPECT_THAT(GatherOne(communicator, 2), StatusIs(absl::StatusCode::kCancelled));
    aborter.join();
    EXPECT_THAT(communicator.AllReduceSum(Span(values, 100)),
                StatusIs(absl::StatusCode::kCancelled));
    ended.Notify();
  });
}

// Buffers live on until an abort has ended what writes to them.
TEST(NcclCommunicatorTest, AnotherSizeThanThePeersIsAnErrorThatNamesBoth) {
  const Buffer<float> values[] = {Buffer<float>(100), Buffer<float>(200)};
  OnRanks(2, [&](int rank, Communicator& communicator) {
    absl::Status status = communicator.AllReduceSum(Span(values[rank], rank == 0 ? 100 : 200));
    if (status.ok()) status = GatherOne(communicator, 2);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 AllOf(HasSubstr("all-reduce of 400 bytes"),
                                       HasSubstr("all-reduce of 800 bytes"))));
  });
}

TEST(NcclCommunicatorTest, AnotherOrderThanThePeersIsAnErrorThatNamesBoth) {
  const Buffer<float> values(100);
  OnRanks(2, [&](int rank, Communicator& communicator) {
    absl::Status status;
    if (rank == 0) status = communicator.AllReduceSum(Span(values, 100));
    if (status.ok()) status = GatherOne(communicator, 2);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 AllOf(HasSubstr("all-reduce of 400 bytes"),
                                       HasSubstr("all-gather of 1 "))));
  });
}

TEST(NcclCommunicatorTest, AnErrorThatNcclNoticesEndsAWait) {
  absl::Notification ended;
  OnRanks(2, [&](int rank, Communicator& communicator) {
    if (rank == 1) return ended.WaitForNotification();
    std::thread network(
        [] { cuda_on_cpu::FailCommunicator(0, ncclRemoteError, "socket of rank 1 closed"); });
    EXPECT_THAT(GatherOne(communicator, 2),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("socket of rank 1 closed")));
    network.join();
    ended.Notify();
  });
}

TEST(NcclCommunicatorTest, TheNextGenerationWorksInTheSameProcessAndEveryOneIsAborted) {
  const cuda_on_cpu::NcclCounts before = CountCommunicators();
  for (int generation = 0; generation < 3; ++generation) {
    OnRanks(2, [&](int rank, Communicator& communicator) {
      const Buffer<float> values(ValuesOf(rank, 10));
      ASSERT_THAT(communicator.AllReduceSum(Span(values, 10)), IsOk());
      ASSERT_THAT(GatherOne(communicator, 2), IsOk());
      EXPECT_EQ(values.Values()[9], ValueOf(0, 9) + ValueOf(1, 9));
      if (rank == generation % 2) communicator.Abort();
    });
  }
  EXPECT_EQ(CountCommunicators().made, before.made + 6);
  EXPECT_EQ(CountCommunicators().aborted, before.aborted + 6);
}

TEST(NcclCommunicatorTest, AnAbortThatHangsIsToldAfterItsTimeout) {
  absl::Notification told;
  const auto communicator = MakeCommunicator(0, absl::Milliseconds(1), [&told] { told.Notify(); });
  ASSERT_THAT(communicator->Connect(communicator->NewId().value(), 0, 1, absl::InfiniteDuration()),
              IsOk());
  {
    const cuda_on_cpu::HungAborts hung;
    communicator->Abort();
    told.WaitForNotification();
  }
}

// What an abort waits for is then its own business alone.
TEST(NcclCommunicatorTest, ADeviceHasNoSecondCommunicatorUntilTheFirstHasEnded) {
  const auto connect = [](Communicator& communicator) {
    return communicator.Connect(communicator.NewId().value(), 0, 1, absl::InfiniteDuration());
  };
  const auto is_refused = StatusIs(absl::StatusCode::kFailedPrecondition,
                                   HasSubstr("cuda:0 has a communicator, want one at a time"));
  absl::Notification told;
  auto first = MakeCommunicator(0, absl::Milliseconds(1), [&told] { told.Notify(); });
  ASSERT_THAT(connect(*first), IsOk());
  EXPECT_THAT(connect(*MakeCommunicator(0)), is_refused);
  EXPECT_THAT(connect(*MakeCommunicator(1)), IsOk()) << "another device is another group";
  {
    const cuda_on_cpu::HungAborts hung;
    first->Abort();
    told.WaitForNotification();
    EXPECT_THAT(connect(*MakeCommunicator(0)), is_refused) << "its abort has not returned";
  }
  first.reset();
  EXPECT_THAT(connect(*MakeCommunicator(0)), IsOk());
}

TEST(NcclCommunicatorTest, WhatCannotBeIsRefusedByName) {
  const auto create = [](const std::string& device) {
    return CreateNcclCommunicator({.device = device, .on_abort_hung = [] { std::abort(); }},
                                  cuda_on_cpu::NcclStandin());
  };
  EXPECT_THAT(create("cpu"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'cpu'")));
  EXPECT_THAT(create("cuda:7"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("device is cuda:7")));
  OnRanks(1, [](int, Communicator& communicator) {
    EXPECT_EQ(communicator.algorithm(),
              absl::StrCat("nccl_", NCCL_MAJOR, ".", NCCL_MINOR, ".", NCCL_PATCH));
    std::vector<float> of_the_host(4);
    EXPECT_THAT(communicator.AllReduceSum(absl::MakeSpan(of_the_host)),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("not the device's")));
  });
  const auto communicator = MakeCommunicator(0);
  EXPECT_THAT(communicator->Connect("too short", 0, 1, absl::InfiniteDuration()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("has 9 bytes, want 128")));
}

}  // namespace
}  // namespace vitscale::cuda
