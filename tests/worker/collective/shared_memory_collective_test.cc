// What holds for shared memory beyond the contract of all collectives.

#include "worker/collective/shared_memory_collective.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "tests/status_matchers.h"
#include "tests/worker/collective/ranks.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);

// Of very different sizes, so that another order of additions gives other bits.
std::vector<float> Values(int rank, int size) {
  std::mt19937 generator(rank + 1);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(generator) * std::exp2f(normal(generator) * 8);
  return values;
}

std::vector<float> SerialSum(int world, int size) {
  std::vector<float> sum = Values(0, size);
  for (int rank = 1; rank < world; ++rank) {
    const std::vector<float> values = Values(rank, size);
    for (int i = 0; i < size; ++i) sum[i] += values[i];
  }
  return sum;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

Gang SharedGang(int size) { return Gang(size, Wiring::kSharedMemory); }

class OrderTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(TwoToSevenRanks, OrderTest, ::testing::Values(2, 3, 4, 5, 7));

TEST_P(OrderTest, TheSumIsTheSerialSumInRankOrderBitForBitWhateverTheChunks) {
  const int world = GetParam();
  std::atomic<int> same{0};
  const std::vector<int> sizes = {1, 15, 17, 1023, 1024, 1025, 50000};
  for (int64_t chunk_bytes : {4096, 65536}) {
    Gang gang = SharedGang(world);
    gang.chunk_bytes_ = chunk_bytes;
    gang.RunThreads([&](Collective& collective) {
      for (size_t b = 0; b < sizes.size(); ++b) {
        std::vector<float> values = Values(collective.rank(), sizes[b]);
        collective.Start(b, absl::MakeSpan(values));
        ASSERT_TRUE(collective.Barrier(kLong).ok());
        same += SameBits(values, SerialSum(world, sizes[b]));
      }
    });
  }
  EXPECT_EQ(same, 2 * world * static_cast<int>(sizes.size()));
}

TEST(SharedMemoryCollectiveTest, LargeGathersAndBroadcastsPassThroughSmallChunks) {
  std::atomic<int> good{0};
  SharedGang(3).RunThreads([&](Collective& collective) {
    const auto text = [](int rank) {
      std::string text(100'001, '\0');
      for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7 + rank);
      return text;
    };
    const auto parts = collective.AllGather(text(collective.rank()), kLong);
    good += parts.ok() && *parts == std::vector<std::string>{text(0), text(1), text(2)};
    std::string own = text(collective.rank());
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(own.data()), own.size());
    good += collective.Broadcast(1, bytes, kLong).ok() && own == text(1);
  });
  EXPECT_EQ(good, 6);
}

TEST(SharedMemoryCollectiveTest, ThousandsOfOperationsOfManySizesStayInStep) {
  std::atomic<int> good{0};
  SharedGang(3).RunThreads([&](Collective& collective) {
    std::mt19937 same_on_all(5);
    std::vector<std::vector<float>> buckets(50);
    for (auto& bucket : buckets) bucket.resize(same_on_all() % 9000);
    for (int step = 1; step <= 60; ++step) {
      for (auto& bucket : buckets) bucket.assign(bucket.size(), collective.rank() + step);
      for (size_t b = 0; b < buckets.size(); ++b) collective.Start(b, absl::MakeSpan(buckets[b]));
      ControlRecord record;
      record.step = step;
      const auto records = collective.ExchangeRecords(record, kLong);
      ASSERT_TRUE(records.ok()) << records.status();
      for (const auto& bucket : buckets) {
        good += bucket == std::vector<float>(bucket.size(), 3.0f * step + 3);
      }
    }
  });
  EXPECT_EQ(good, 3 * 60 * 50);
}

TEST(SharedMemoryCollectiveTest, RanksThatAskForDifferentThingsFailLongBeforeTheDeadline) {
  std::vector<absl::Status> errors(2);
  SharedGang(2).RunThreads([&](Collective& collective) {
    if (collective.rank() == 0) {
      errors[0] = collective.Barrier(absl::InfiniteDuration());
    } else {
      errors[1] = collective.AllGather("text", absl::InfiniteDuration()).status();
    }
  });
  for (const absl::Status& error : errors) {
    EXPECT_THAT(error, StatusIs(absl::StatusCode::kUnavailable));
  }
  EXPECT_THAT(absl::StrCat(errors[0].ToString(), errors[1].ToString()),
              HasSubstr("asked for another operation"));
}

TEST(SharedMemoryCollectiveTest, AKilledProcessIsTheOneSuspect) {
  const Gang gang = SharedGang(3);
  auto processes = gang.Fork([](Collective& collective) -> std::string {
    if (collective.rank() == 1) raise(SIGKILL);
    const absl::Status status = collective.Barrier(absl::InfiniteDuration());
    return absl::StrCat(status.ToString(), " suspects ", absl::StrJoin(collective.suspects(), ","));
  });
  // Whoever looks second may have seen the other leave first: it still says who has ended.
  for (int rank : {0, 2}) {
    const std::string output = Gang::Await(processes[rank]);
    EXPECT_THAT(output, HasSubstr("UNAVAILABLE"));
    EXPECT_THAT(output, ::testing::EndsWith("suspects 1"));
  }
  Gang::Await(processes[1]);
}

TEST(SharedMemoryCollectiveTest, ARankThatHangsIsTheSuspectAtTheDeadline) {
  absl::Notification given_up;
  std::vector<int> suspects;
  SharedGang(3).RunThreads([&](Collective& collective) {
    if (collective.rank() == 2) return given_up.WaitForNotification();
    const bool first = collective.rank() == 0;
    EXPECT_THAT(collective.Barrier(first ? absl::Milliseconds(200) : absl::InfiniteDuration()),
                StatusIs(absl::StatusCode::kUnavailable));
    if (!first) return;
    suspects = collective.suspects();
    given_up.Notify();
  });
  EXPECT_THAT(suspects, ElementsAre(2));
}

TEST(SharedMemoryCollectiveTest, ARankThatLeavesWhenAllIsDoneIsNoError) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> good{0};
    SharedGang(3).RunThreads(
        [&](Collective& collective) { good += collective.Barrier(kLong).ok(); });
    EXPECT_EQ(good, 3);
  }
}

TEST(SharedMemoryCollectiveTest, RanksWithDifferentChunksDoNotShareAndGlooTakesOver) {
  const Gang gang(2, Wiring::kGloo);
  std::atomic<int> refused{0}, good{0};
  std::vector<std::thread> threads;
  for (int rank : {0, 1}) {
    threads.emplace_back([&, rank] {
      const MeetingOptions meeting = {gang.identity_, rank, 2, gang.listener_->address(),
                                      gang.listener_.get()};
      const auto shared = MakeSharedMemoryCollective({meeting, 4096 * (1 + rank)});
      const absl::Status status = shared->Connect(absl::Seconds(20));
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
      refused += IsNotOneHost(status);
      const auto gloo = gang.Make(rank);
      good += gloo->Connect(absl::Seconds(20)).ok() && gloo->Barrier(kLong).ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 2);
  EXPECT_EQ(good, 2);
}

}  // namespace
}  // namespace vitscale
