// What the collective over devices adds to what every collective does.

#include "worker/collective/nccl_collective.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda_on_cpu/device_buffer.h"
#include "tests/cuda_on_cpu/nccl/nccl_gang.h"
#include "tests/status_matchers.h"

namespace vitscale::cuda {
namespace {

using cuda_on_cpu::Buffer;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr size_t kCount = 300;

absl::Span<float> Span(const Buffer<float>& buffer, size_t count = kCount) {
  return absl::MakeSpan(buffer.get(), count);
}
std::vector<float> Ones() { return std::vector<float>(kCount, 1.0f); }

// One per rank; they outlive the ranks' communicators.
struct Buckets {
  const Buffer<float> of[kDevices] = {Buffer<float>(Ones()), Buffer<float>(Ones()),
                                      Buffer<float>(Ones())};
};

TEST(NcclCollectiveTest, SumsAreDoneWhenTheRecordsOfAllRanksAreThere) {
  const Buckets first, second;
  std::atomic<int> good{0};
  NcclGang(3).Run([&](Collective& collective) {
    EXPECT_THAT(collective.algorithm(), StartsWith("nccl_2."));
    for (int step = 1; step <= 3; ++step) {
      collective.Start(0, Span(first.of[collective.rank()]));
      collective.Start(1, Span(second.of[collective.rank()], 7));
      const auto records = collective.ExchangeRecords(RecordOf(collective, step), kLong);
      ASSERT_THAT(records, IsOk());
      for (int rank = 0; rank < 3; ++rank) {
        good += (*records)[rank].rank == rank && (*records)[rank].step == step;
      }
    }
  });
  EXPECT_EQ(good, 3 * 3 * 3);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(first.of[rank].Values(), std::vector<float>(kCount, 27.0f));
    EXPECT_EQ(second.of[rank].Values()[6], 27.0f);
    EXPECT_EQ(second.of[rank].Values()[7], 1.0f);
  }
}

// Of the same sizes, whatever carries them: no hash that travels with a gather, no comparison.
TEST(NcclCollectiveTest, BytesHandedOverAreThoseOfBucketsRecordsAndGathers) {
  const Buckets first, second;
  NcclGang(2).Run([&](Collective& collective) {
    const int rank = collective.rank();
    for (int step = 1; step <= 3; ++step) {
      collective.Start(0, Span(first.of[rank]));
      collective.Start(1, Span(second.of[rank], 7));
      ASSERT_THAT(collective.ExchangeRecords(RecordOf(collective, step), kLong), IsOk());
    }
    const int64_t summed = 3 * (4 * (kCount + 7) + sizeof(ControlRecord));
    EXPECT_EQ(collective.bytes_handed_over(), summed);
    ASSERT_THAT(collective.AllGather("seven77", kLong), IsOk());
    ASSERT_THAT(collective.Barrier(kLong), IsOk());
    EXPECT_EQ(collective.bytes_handed_over(), summed + 7);
  });
}

TEST(NcclCollectiveTest, BroadcastAllGatherAndBarrierWorkInTurn) {
  std::atomic<int> good{0};
  NcclGang(3).Run([&](Collective& collective) {
    std::string text = collective.rank() == 2 ? "from two" : "????????";
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), 8);
    good += collective.Broadcast(2, bytes, kLong).ok() && text == "from two";
    const auto parts = collective.AllGather(absl::StrCat("rank", collective.rank()), kLong);
    good += parts.ok() && *parts == std::vector<std::string>{"rank0", "rank1", "rank2"};
    good += collective.Barrier(kLong).ok();
  });
  EXPECT_EQ(good, 9);
}

TEST(NcclCollectiveTest, ADifferentBucketSizeIsNamedWithRankAndBucket) {
  const Buckets buckets;
  std::vector<std::string> errors(2);
  NcclGang(2).Run([&](Collective& collective) {
    const int rank = collective.rank();
    collective.Start(3, Span(buckets.of[rank], rank == 0 ? 100 : 200));
    errors[rank] = collective.ExchangeRecords(RecordOf(collective), kLong).status().ToString();
  });
  EXPECT_THAT(errors[0], HasSubstr("rank 1 has bucket 3 of 800 bytes"));
  EXPECT_THAT(errors[1], HasSubstr("rank 0 has bucket 3 of 400 bytes"));
}

// Both move as many bytes, so that nothing but the hash can tell.
TEST(NcclCollectiveTest, RanksThatAskForDifferentThingsLearnItInTheGather) {
  std::vector<absl::Status> errors(2);
  NcclGang(2).Run([&](Collective& collective) {
    const ControlRecord record = RecordOf(collective);
    errors[collective.rank()] =
        collective.rank() == 0
            ? collective.ExchangeRecords(record, kLong).status()
            : collective.AllGather(std::string(sizeof(record), 'x'), kLong).status();
  });
  EXPECT_THAT(errors[0], StatusIs(absl::StatusCode::kUnavailable,
                                  HasSubstr("rank 1 asked for other operations than rank 0")));
  EXPECT_THAT(errors[1], StatusIs(absl::StatusCode::kUnavailable,
                                  HasSubstr("rank 0 asked for other operations than rank 1")));
}

TEST(NcclCollectiveTest, APeerThatNeverSumsIsAnErrorAtTheDeadline) {
  const Buckets buckets;
  absl::Notification ended;
  NcclGang(2).Run([&](Collective& collective) {
    if (collective.rank() == 1) return ended.WaitForNotification();
    collective.Start(0, Span(buckets.of[0]));
    EXPECT_THAT(collective.ExchangeRecords(RecordOf(collective), absl::Milliseconds(50)),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no answer within 50ms")));
    ended.Notify();
  });
}

TEST(NcclCollectiveTest, AbortWakesAWaitAndThePeersNoticeByTheirHosts) {
  const Buckets buckets;
  std::vector<absl::Status> errors(3);
  NcclGang(3).Run([&](Collective& collective) {
    const int rank = collective.rank();
    if (rank == 0) collective.Abort();
    collective.Start(0, Span(buckets.of[rank]));
    errors[rank] =
        collective.ExchangeRecords(RecordOf(collective), absl::InfiniteDuration()).status();
  });
  EXPECT_THAT(errors[0], StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(errors[1], StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(errors[2], StatusIs(absl::StatusCode::kUnavailable));
}

TEST(NcclCollectiveTest, AnErrorThatNcclNoticesFailsTheStep) {
  const Buckets buckets;
  std::vector<absl::Status> errors(2);
  NcclGang(2).Run([&](Collective& collective) {
    const int rank = collective.rank();
    if (rank == 1) {
      cuda_on_cpu::FailCommunicator(1, ncclRemoteError, "network of rank 1");
      collective.Start(0, Span(buckets.of[1]));
    }
    errors[rank] =
        collective.ExchangeRecords(RecordOf(collective), absl::InfiniteDuration()).status();
  });
  EXPECT_THAT(errors[0], StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(errors[1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("network of rank 1")));
}

TEST(NcclCollectiveTest, AConnectWhoseDevicesDoNotComeEndsAtAnAbortOrItsDeadline) {
  const NcclGang gang(2);
  const auto alone = gang.Make(0);
  EXPECT_THAT(alone->Connect(absl::Milliseconds(50)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1 did not come")));
  const auto aborted = gang.Make(0, 2);
  std::thread aborter([&] { aborted->Abort(); });
  EXPECT_THAT(aborted->Connect(absl::InfiniteDuration()), StatusIs(absl::StatusCode::kCancelled));
  aborter.join();
}

// A communicator that fails when it is to make an id.
class NoId : public Communicator {
 public:
  std::string algorithm() const override { return "none"; }
  absl::StatusOr<std::string> NewId() override { return absl::InternalError("no network device"); }
  absl::Status Connect(absl::string_view, int, int, absl::Duration) override { return {}; }
  absl::Status AllReduceSum(absl::Span<float>) override { return {}; }
  absl::Status AllGather(absl::string_view, absl::Span<char>) override { return {}; }
  void Abort() override {}
};

TEST(NcclCollectiveTest, ARankThatCannotMakeAnIdFailsAllAtOnce) {
  const NcclGang gang(2);
  std::vector<absl::Status> errors(2);
  OnThreads(2, [&](int rank) {
    errors[rank] = gang.Make(rank, 1, std::make_unique<NoId>())->Connect(kLong);
  });
  EXPECT_THAT(errors[0], StatusIs(absl::StatusCode::kInternal, HasSubstr("no network device")));
  EXPECT_THAT(errors[1], StatusIs(absl::StatusCode::kUnavailable));
}

// Hosts whose network fails in ways that the system counts as anything.
class BadHosts : public Wire {
 public:
  explicit BadHosts(absl::Status error) : error_(std::move(error)) {}
  int rank() const override { return 0; }
  int world_size() const override { return 2; }
  std::string algorithm() const override { return "none"; }
  absl::Status Connect(absl::Duration) override { return error_; }
  absl::Status AllReduceSum(absl::Span<float>, uint32_t) override { return error_; }
  absl::Status AllGather(absl::string_view, absl::Span<char>, uint32_t) override { return error_; }
  absl::Status Broadcast(int, absl::Span<std::byte>, uint32_t) override { return error_; }
  absl::Status Barrier(uint32_t) override { return error_; }
  void Shutdown() override {}
  std::vector<int> ClosedPeers() const override { return {}; }
  std::vector<int> Suspects(bool) const override { return {}; }

 private:
  const absl::Status error_;
};

TEST(NcclCollectiveTest, WhatTheNetworkOfHostsSaysIsNeverTheDevicesFault) {
  for (const absl::Status& error :
       {absl::InternalError("odd"), absl::InvalidArgumentError("odd"),
        absl::ResourceExhaustedError("odd"), absl::UnavailableError("odd")}) {
    const auto wire = MakeNcclWire(std::make_unique<BadHosts>(error), std::make_unique<NoId>());
    const auto is_the_networks = StatusIs(absl::StatusCode::kUnavailable, "odd");
    EXPECT_THAT(wire->Connect(kLong), is_the_networks);
    EXPECT_THAT(wire->Broadcast(0, {}, 1), is_the_networks);
    EXPECT_THAT(wire->Barrier(1), is_the_networks);
  }
  const auto ended = MakeNcclWire(std::make_unique<BadHosts>(absl::CancelledError("aborted")),
                                  std::make_unique<NoId>());
  EXPECT_THAT(ended->Barrier(1), StatusIs(absl::StatusCode::kCancelled));
}

TEST(NcclCollectiveTest, SurvivorsFormTheNextGenerationInTheSameProcess) {
  const Buckets buckets;
  const NcclGang gang(2);
  std::atomic<int> good{0};
  OnThreads(2, [&](int rank) {
    for (int64_t generation = 1; generation <= 4; ++generation) {
      const auto collective = gang.Make(rank, generation);
      ASSERT_THAT(collective->Connect(kLong), IsOk());
      collective->Start(0, Span(buckets.of[rank]));
      good += collective->ExchangeRecords(RecordOf(*collective), kLong).ok();
      if (rank == generation % 2) collective->Abort();
      (void)collective->Barrier(kLong);
    }
  });
  EXPECT_EQ(good, 8);
  EXPECT_EQ(buckets.of[1].Values(), std::vector<float>(kCount, 16.0f));
}

TEST(NcclCollectiveTest, AnAbortThatHangsIsToldWhileTheStepWaits) {
  const Buckets buckets;
  const NcclGang gang(2);
  absl::Notification told, ended;
  OnThreads(2, [&](int rank) {
    const auto collective = gang.Make(rank, 1, MakeCommunicator(rank, absl::Milliseconds(1), [&] {
                                        if (!told.HasBeenNotified()) told.Notify();
                                      }));
    ASSERT_THAT(collective->Connect(kLong), IsOk());
    if (rank == 1) return ended.WaitForNotification();
    auto hung = std::make_unique<cuda_on_cpu::HungAborts>();
    std::thread release([&] {
      told.WaitForNotification();
      hung.reset();
    });
    collective->Start(0, Span(buckets.of[0]));
    EXPECT_THAT(collective->ExchangeRecords(RecordOf(*collective), absl::Milliseconds(20)),
                StatusIs(absl::StatusCode::kUnavailable));
    release.join();
    ended.Notify();
  });
}

}  // namespace
}  // namespace vitscale::cuda
