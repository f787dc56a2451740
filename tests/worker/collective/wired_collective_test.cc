// What holds for every implementation between several ranks.

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "kernels/base/crc32c.h"
#include "tests/status_matchers.h"
#include "tests/worker/collective/ranks.h"

namespace vitscale {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kLong = absl::Seconds(30);
const std::vector<int> kSizes = {1, 3, 64, 1000, 100003};

std::vector<float> Values(int rank, int bucket, int size) {
  std::mt19937 generator(1000 * bucket + rank);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(generator) * std::exp2f(normal(generator) * 8);
  return values;
}

ControlRecord RecordOf(const Collective& collective, int64_t step = 1) {
  ControlRecord record;
  record.rank = collective.rank();
  record.world_size = collective.world_size();
  record.step = step;
  return record;
}

// All buckets summed; the values one after the other.
absl::StatusOr<std::vector<float>> SumAll(Collective& collective) {
  std::vector<std::vector<float>> buckets;
  for (size_t b = 0; b < kSizes.size(); ++b) {
    buckets.push_back(Values(collective.rank(), b, kSizes[b]));
  }
  for (size_t b = 0; b < buckets.size(); ++b) collective.Start(b, absl::MakeSpan(buckets[b]));
  const auto records = collective.ExchangeRecords(RecordOf(collective), kLong);
  if (!records.ok()) return records.status();
  std::vector<float> sums;
  for (const auto& bucket : buckets) sums.insert(sums.end(), bucket.begin(), bucket.end());
  return sums;
}

class WiredCollectiveTest : public ::testing::TestWithParam<Wiring> {
 protected:
  static Gang GangOf(int size, int64_t generation = 1) {
    return Gang(size, GetParam(), generation);
  }
};
const auto kAll = ::testing::Values(Wiring::kGloo, Wiring::kSharedMemory, Wiring::kTwoHosts);
INSTANTIATE_TEST_SUITE_P(Each, WiredCollectiveTest, kAll,
                         [](const auto& info) { return NameOf(info.param); });

class SumTest : public ::testing::TestWithParam<std::tuple<Wiring, int>> {
 protected:
  static int World() { return std::get<1>(GetParam()); }
  static Gang GangOf() { return Gang(World(), std::get<0>(GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(TwoToFiveRanks, SumTest,
                         ::testing::Combine(kAll, ::testing::Values(2, 3, 4, 5)),
                         [](const auto& info) {
                           return absl::StrCat(NameOf(std::get<0>(info.param)),
                                               std::get<1>(info.param));
                         });

TEST_P(SumTest, BucketsAreTheSameBitsOnEveryRankAndTheRightSum) {
  const int world = World();
  std::vector<std::vector<float>> results(world);
  GangOf().RunThreads([&](Collective& collective) {
    auto sums = SumAll(collective);
    if (sums.ok()) results[collective.rank()] = *std::move(sums);
  });
  size_t at = 0;
  for (size_t b = 0; b < kSizes.size(); ++b) {
    std::vector<std::vector<float>> inputs;
    for (int rank = 0; rank < world; ++rank) inputs.push_back(Values(rank, b, kSizes[b]));
    for (int i = 0; i < kSizes[b]; ++i, ++at) {
      double exact = 0, magnitude = 0;
      for (int rank = 0; rank < world; ++rank) {
        exact += inputs[rank][i];
        magnitude += std::abs(inputs[rank][i]);
      }
      // world - 1 additions, each rounded once: at most 2^-24 of the partial sum, which is at most
      // `magnitude`.
      ASSERT_NEAR(results[0][at], exact, (world - 1) * 0x1p-24 * magnitude * 1.0001);
    }
  }
  for (int rank = 1; rank < world; ++rank) {
    ASSERT_EQ(results[rank].size(), results[0].size());
    EXPECT_EQ(std::memcmp(results[rank].data(), results[0].data(), 4 * results[0].size()), 0)
        << "rank " << rank;
  }
}

TEST_P(SumTest, RanksAsProcessesGetTheSameBitsToo) {
  const Gang gang = GangOf();
  auto processes = gang.Fork([](Collective& collective) -> std::string {
    const auto sums = SumAll(collective);
    if (!sums.ok()) return sums.status().ToString();
    return absl::StrCat("crc ", ExtendCrc32c(0, sums->data(), 4 * sums->size()));
  });
  std::vector<std::string> outputs;
  for (auto& process : processes) outputs.push_back(Gang::Await(process));
  EXPECT_THAT(outputs[0], HasSubstr("crc "));
  EXPECT_THAT(outputs, Each(outputs[0]));
}

TEST_P(WiredCollectiveTest, RecordsOfAllRanksArriveInRankOrderOnEveryRank) {
  std::atomic<int> good{0};
  GangOf(3).RunThreads([&](Collective& collective) {
    for (int step = 1; step <= 5; ++step) {
      const auto records = collective.ExchangeRecords(RecordOf(collective, step), kLong);
      ASSERT_TRUE(records.ok()) << records.status();
      for (int rank = 0; rank < 3; ++rank) {
        good += (*records)[rank].rank == rank && (*records)[rank].step == step;
      }
    }
  });
  EXPECT_EQ(good, 3 * 5 * 3);
}

TEST_P(WiredCollectiveTest, BroadcastAllGatherAndBarrierWorkInTurn) {
  std::atomic<int> good{0};
  GangOf(3).RunThreads([&](Collective& collective) {
    std::string text = collective.rank() == 2 ? "from two" : "????????";
    good +=
        collective.Broadcast(2, absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), 8), kLong)
            .ok() &&
        text == "from two";
    const auto parts = collective.AllGather(absl::StrCat("rank", collective.rank()), kLong);
    good += parts.ok() && *parts == std::vector<std::string>{"rank0", "rank1", "rank2"};
    good += collective.Barrier(kLong).ok();
  });
  EXPECT_EQ(good, 9);
}

// Whatever a wire adds (sizes that are compared, tags) is its own business; who alone broadcasts
// would count a state once that arrives everywhere.
TEST_P(WiredCollectiveTest, BytesHandedOverAreThoseOfBucketsRecordsAndGathersThatPassed) {
  int64_t of_buckets = 0;
  for (const int size : kSizes) of_buckets += 4 * size;
  std::vector<int64_t> steps[3];
  for (auto& each : steps) each.resize(3);
  std::barrier all_passed(3);
  GangOf(3).RunThreads([&](Collective& collective) {
    const int rank = collective.rank();
    EXPECT_EQ(collective.bytes_handed_over(), 0);
    EXPECT_TRUE(SumAll(collective).ok() && SumAll(collective).ok());
    steps[0][rank] = collective.bytes_handed_over();
    std::byte bytes[8] = {};
    EXPECT_TRUE(collective.AllGather("seven77", kLong).ok());
    EXPECT_TRUE(collective.Broadcast(1, absl::MakeSpan(bytes), kLong).ok());
    EXPECT_TRUE(collective.Barrier(kLong).ok());
    steps[1][rank] = collective.bytes_handed_over();
    all_passed.arrive_and_wait();
    collective.Abort();
    EXPECT_FALSE(SumAll(collective).ok());
    steps[2][rank] = collective.bytes_handed_over();
  });
  const auto on_all = [](int64_t bytes) { return ElementsAre(bytes, bytes, bytes); };
  const int64_t summed = 2 * (of_buckets + static_cast<int64_t>(sizeof(ControlRecord)));
  EXPECT_THAT(steps[0], on_all(summed));
  EXPECT_THAT(steps[1], on_all(summed + 7));
  EXPECT_THAT(steps[2], on_all(summed + 7)) << "what was aborted does not count";
}

TEST_P(WiredCollectiveTest, ADifferentBucketSizeIsNamedWithRankAndBucket) {
  std::vector<std::string> errors(2);
  GangOf(2).RunThreads([&](Collective& collective) {
    std::vector<float> values(collective.rank() == 0 ? 100 : 200);
    collective.Start(3, absl::MakeSpan(values));
    errors[collective.rank()] =
        collective.ExchangeRecords(RecordOf(collective), kLong).status().ToString();
  });
  EXPECT_THAT(errors[0], HasSubstr("rank 1 has bucket 3 of 800 bytes"));
  EXPECT_THAT(errors[1], HasSubstr("rank 0 has bucket 3 of 400 bytes"));
}

TEST_P(WiredCollectiveTest, ABucketThatChangesItsSizeIsTheCallersError) {
  std::vector<absl::Status> errors(2);
  GangOf(2).RunThreads([&](Collective& collective) {
    std::vector<float> values(100);
    collective.Start(0, absl::MakeSpan(values));
    ASSERT_TRUE(collective.ExchangeRecords(RecordOf(collective), kLong).ok());
    const size_t size = collective.rank() == 0 ? 50 : 100;
    collective.Start(0, absl::MakeSpan(values).subspan(0, size));
    errors[collective.rank()] = collective.ExchangeRecords(RecordOf(collective), kLong).status();
  });
  EXPECT_THAT(errors[0], StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bucket 0")));
  EXPECT_THAT(errors[1], StatusIs(absl::StatusCode::kUnavailable));
}

TEST_P(WiredCollectiveTest, AKilledRankFailsTheOthersAndIsSuspected) {
  const Gang gang = GangOf(3);
  auto processes = gang.Fork([](Collective& collective) -> std::string {
    std::vector<float> values(1 << 20, 1.0f);
    for (int step = 1;; ++step) {
      if (collective.rank() == 1 && step == 5) raise(SIGKILL);
      collective.Start(0, absl::MakeSpan(values));
      const auto records = collective.ExchangeRecords(RecordOf(collective, step), kLong);
      if (!records.ok()) {
        return absl::StrCat(records.status().ToString(), " suspects ",
                            collective.suspects().empty() ? "none" : "some");
      }
    }
  });
  EXPECT_EQ(Gang::Await(processes[1]), "");
  for (int rank : {0, 2}) {
    const std::string output = Gang::Await(processes[rank]);
    EXPECT_THAT(output, HasSubstr("UNAVAILABLE"));
    EXPECT_THAT(output, HasSubstr("suspects some"));
  }
}

TEST_P(WiredCollectiveTest, AStoppedRankIsAnErrorAtTheDeadline) {
  const Gang gang = GangOf(3);
  auto processes = gang.Fork([](Collective& collective) -> std::string {
    if (collective.rank() == 2) raise(SIGSTOP);
    std::vector<float> values(1 << 18, 1.0f);
    collective.Start(0, absl::MakeSpan(values));
    return collective.ExchangeRecords(RecordOf(collective), absl::Milliseconds(400))
        .status()
        .ToString();
  });
  for (int rank : {0, 1}) EXPECT_THAT(Gang::Await(processes[rank]), HasSubstr("UNAVAILABLE"));
  kill(processes[2].pid, SIGKILL);
  Gang::Await(processes[2]);
}

TEST_P(WiredCollectiveTest, AbortWakesAWaitAndThePeersNoticeAtOnce) {
  std::vector<absl::Status> errors(3);
  GangOf(3).RunThreads([&](Collective& collective) {
    if (collective.rank() == 0) {  // never exchanges
      collective.Abort();
      errors[0] = collective.Barrier(kLong);
      return;
    }
    errors[collective.rank()] =
        collective.ExchangeRecords(RecordOf(collective), absl::InfiniteDuration()).status();
  });
  EXPECT_THAT(errors[0], StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(errors[1], StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(errors[2], StatusIs(absl::StatusCode::kUnavailable));
}

TEST_P(WiredCollectiveTest, AnOwnAbortDuringAnExchangeEndsIt) {
  absl::Status waited, other;
  absl::Notification ended;
  GangOf(2).RunThreads([&](Collective& collective) {
    std::vector<float> values(1 << 16);
    if (collective.rank() == 1) {  // comes too late
      ended.WaitForNotification();
      collective.Start(0, absl::MakeSpan(values));
      other = collective.ExchangeRecords(RecordOf(collective), absl::InfiniteDuration()).status();
      return;
    }
    collective.Start(0, absl::MakeSpan(values));
    std::thread aborter([&collective] { collective.Abort(); });
    waited = collective.ExchangeRecords(RecordOf(collective), absl::InfiniteDuration()).status();
    aborter.join();
    EXPECT_THAT(collective.suspects(), IsEmpty());
    ended.Notify();
  });
  EXPECT_THAT(waited, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(other, StatusIs(absl::StatusCode::kUnavailable));
}

TEST_P(WiredCollectiveTest, AbortEndsAConnectThatNobodyAnswers) {
  const Gang gang = GangOf(2);
  for (int rank : {0, 1}) {
    const auto collective = gang.Make(rank);
    std::thread aborter([&collective] { collective->Abort(); });
    EXPECT_THAT(collective->Connect(absl::InfiniteDuration()),
                StatusIs(absl::StatusCode::kCancelled));
    aborter.join();
  }
}

TEST_P(WiredCollectiveTest, ARankThatDoesNotComeIsNamed) {
  const Gang gang = GangOf(3);
  const auto collective = gang.Make(0);
  EXPECT_THAT(collective->Connect(absl::Milliseconds(100)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1, 2 did not come")));
  EXPECT_THAT(collective->suspects(), ElementsAre(1, 2));
}

TEST_P(WiredCollectiveTest, SurvivorsFormTheNextGenerationInTheSameProcess) {
  const Gang gang = GangOf(2);
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int rank : {0, 1}) {
    threads.emplace_back([&gang, &good, rank] {
      for (int64_t generation = 1; generation <= 5; ++generation) {
        RendezvousIdentity identity = gang.identity_;
        identity.generation = generation;
        const auto collective = gang.Make(rank, identity);
        const absl::Status connected = collective->Connect(absl::Seconds(20));
        ASSERT_TRUE(connected.ok()) << connected;
        std::vector<float> values(1000, 1.0f);
        collective->Start(0, absl::MakeSpan(values));
        const auto records = collective->ExchangeRecords(RecordOf(*collective), kLong);
        good += records.ok() && values[999] == 2.0f;
        if (rank == generation % 2) collective->Abort();
        (void)collective->Barrier(kLong);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 10);
}

// A rank that leaves as soon as its barrier is done closes connections that others may still be
// waiting on.
TEST_P(WiredCollectiveTest, RanksThatLeaveAtOnceAfterABarrierHoldNobodyUp) {
  for (int round = 0; round < 40; ++round) {
    GangOf(2, round + 1).RunThreads([](Collective& collective) {
      (void)collective.Barrier(kLong);
    });
  }
}

}  // namespace
}  // namespace vitscale
