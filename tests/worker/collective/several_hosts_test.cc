// What holds where some ranks share a host and others do not: four ranks, 0 and 2 on one host, 1
// and 3 on another.

#include <atomic>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/status_matchers.h"
#include "tests/worker/collective/ranks.h"

namespace vitscale {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr int kRanks = 4;
constexpr int kSize = 30'001;  // several chunks
constexpr absl::Duration kLong = absl::Seconds(30);

Gang TwoHosts() { return Gang(kRanks, Wiring::kTwoHosts); }

// Of very different sizes, so that another order of additions gives other bits.
std::vector<float> Values(int rank) {
  std::mt19937 generator(rank + 1);
  std::normal_distribution<float> normal;
  std::vector<float> values(kSize);
  for (float& value : values) value = normal(generator) * std::exp2f(normal(generator) * 8);
  return values;
}

TEST(SeveralHostsTest, HostsAreSummedInRankOrderAndThenAddedTheSameBitsOnEveryRank) {
  std::vector<std::vector<float>> inputs;
  for (int rank = 0; rank < kRanks; ++rank) inputs.push_back(Values(rank));
  std::vector<float> want(kSize);
  // A ring of two adds two numbers: their order does not matter.
  for (int i = 0; i < kSize; ++i)
    want[i] = (inputs[0][i] + inputs[2][i]) + (inputs[1][i] + inputs[3][i]);
  std::vector<std::string> names(kRanks);
  std::atomic<int> same{0};
  TwoHosts().RunThreads([&](Collective& collective) {
    names[collective.rank()] = collective.algorithm();
    for (int step = 0; step < 3; ++step) {
      std::vector<float> values = inputs[collective.rank()];
      collective.Start(0, absl::MakeSpan(values));
      ASSERT_TRUE(collective.Barrier(kLong).ok());
      same += std::memcmp(values.data(), want.data(), 4 * kSize) == 0;
    }
  });
  EXPECT_EQ(same, 3 * kRanks);
  EXPECT_THAT(names, Each("shared_memory_in_order on hosts 0,1,0,1, gloo_ring"));
}

// Three on one host, two on the other: hosts give different numbers of parts.
TEST(SeveralHostsTest, GathersKeepTheOrderOfRanksAndEveryRootIsHeardEverywhere) {
  std::atomic<int> good{0};
  Gang(5, Wiring::kTwoHosts).RunThreads([&](Collective& collective) {
    const std::string own(20'000, static_cast<char>('a' + collective.rank()));
    const auto all = collective.AllGather(own, kLong);
    ASSERT_TRUE(all.ok()) << all.status();
    for (int rank = 0; rank < 5; ++rank) good += (*all)[rank] == std::string(20'000, 'a' + rank);
    for (int root = 0; root < 5; ++root) {
      std::string text(20'000, static_cast<char>('A' + collective.rank()));
      const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size());
      ASSERT_TRUE(collective.Broadcast(root, bytes, kLong).ok());
      good += text == std::string(20'000, 'A' + root);
    }
  });
  EXPECT_EQ(good, 5 * 10);
}

class VictimTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(LeadersAndOthers, VictimTest, ::testing::Range(0, kRanks));

TEST_P(VictimTest, AKilledRankEndsTheWaitsOfBothHostsAndItsOwnHostNamesIt) {
  const int victim = GetParam();
  const Gang gang = TwoHosts();
  auto processes = gang.Fork([&](Collective& collective) -> std::string {
    if (collective.rank() == victim) raise(SIGKILL);
    std::vector<float> values(kSize, 1);
    collective.Start(0, absl::MakeSpan(values));
    const auto records = collective.ExchangeRecords({}, absl::InfiniteDuration());
    return absl::StrCat(records.status().ToString(), " suspects ",
                        absl::StrJoin(collective.suspects(), ","));
  });
  for (int rank = 0; rank < kRanks; ++rank) {
    const std::string output = Gang::Await(processes[rank]);
    if (rank == victim) continue;
    EXPECT_THAT(output, HasSubstr("UNAVAILABLE")) << rank;
    if (rank % 2 == victim % 2) {
      EXPECT_THAT(output, ::testing::EndsWith(absl::StrCat("suspects ", victim))) << rank;
    }
  }
}

TEST_P(VictimTest, AnAbortOfAnyRankEndsTheWaitsOfAll) {
  std::vector<absl::Status> ends(kRanks);
  TwoHosts().RunThreads([&](Collective& collective) {
    if (collective.rank() == GetParam()) collective.Abort();
    ends[collective.rank()] = collective.Barrier(absl::InfiniteDuration());
  });
  for (int rank = 0; rank < kRanks; ++rank) {
    EXPECT_THAT(ends[rank], StatusIs(rank == GetParam() ? absl::StatusCode::kCancelled
                                                        : absl::StatusCode::kUnavailable))
        << rank;
  }
}

// The other host could share, but all must go the same way.
TEST(SeveralHostsTest, WhereOneHostCannotShareAllRanksLearnItAndMeetOverGloo) {
  const Gang gang(kRanks, Wiring::kGloo);
  std::atomic<int> refused{0}, good{0};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      const MeetingOptions meeting = {gang.identity_, rank, kRanks, gang.listener_->address(),
                                      gang.listener_.get()};
      const int64_t chunk_bytes = rank == 3 ? 8192 : 4096;
      const auto shared = MakeSharedMemoryCollective({meeting, chunk_bytes, 1u + rank % 2});
      const absl::Status status = shared->Connect(absl::Seconds(20));
      refused += IsNotOneHost(status);
      EXPECT_TRUE(IsNotOneHost(status)) << rank << ": " << status;
      const auto gloo = gang.Make(rank);
      good += gloo->Connect(absl::Seconds(20)).ok() && gloo->Barrier(kLong).ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, kRanks);
  EXPECT_EQ(good, kRanks);
}

}  // namespace
}  // namespace vitscale
