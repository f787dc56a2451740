// The memory that ranks share, who gets it, and the sum.

#include "worker/collective/shared_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <limits>
#include <vector>

#include "tests/status_matchers.h"
#include "worker/collective/shared_handover.h"
#include "worker/collective/sum_in_order.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr SharedShape kShape = {7, 3, 8192};

TEST(SharedRegionTest, TwoMappingsShowTheSameBytesAndEveryChunkIsItsOwn) {
  const auto memory = SharedRegion::CreateMemory(kShape);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto a = SharedRegion::Map(memory->get(), kShape);
  const auto b = SharedRegion::Map(memory->get(), kShape);
  ASSERT_TRUE(a.ok() && b.ok());
  for (int rank = 0; rank < 3; ++rank) {
    for (int i = 0; i < kSharedDepth; ++i) {
      std::fill_n((*a)->chunk(rank, i), 8192, std::byte(20 * rank + i + 1));
    }
    (*a)->block(rank).done[0] = 100 + rank;
  }
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ((*b)->block(rank).done[0], 100u + rank);
    for (int i = 0; i < kSharedDepth; ++i) {
      EXPECT_EQ((*b)->chunk(rank, i)[0], std::byte(20 * rank + i + 1));
      EXPECT_EQ((*b)->chunk(rank, i + kSharedDepth)[8191], std::byte(20 * rank + i + 1));
    }
  }
}

TEST(SharedRegionTest, NobodyCanShrinkTheMemoryUnderAReader) {
  const auto memory = SharedRegion::CreateMemory(kShape);
  ASSERT_TRUE(memory.ok());
  EXPECT_NE(ftruncate(memory->get(), 0), 0);
}

TEST(SharedRegionTest, MemoryOfAnotherGenerationOrShapeOrWithoutSealsIsRefused) {
  const auto memory = SharedRegion::CreateMemory(kShape);
  ASSERT_TRUE(memory.ok());
  const auto refused = [&](SharedShape shape, const char* why) {
    EXPECT_THAT(SharedRegion::Map(memory->get(), shape).status(),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(why)));
  };
  refused({8, 3, 8192}, "not that of this generation");
  refused({7, 4, 8192}, "bytes, want");
  refused({7, 3, 4096}, "bytes, want");
  refused({7, 3, 5000}, "whole pages");
  refused({7, 65, 8192}, "65 ranks");
  const UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC));
  EXPECT_THAT(SharedRegion::Map(unsealed.get(), kShape).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not sealed")));
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_THAT(SharedRegion::Map(null.get(), kShape).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

HostCard Card() { return {11, 12, 13, 14, 15}; }

TEST(HostCardTest, SurvivesTheRendezvousAndAnythingElseIsRefused) {
  const auto decoded = HostCard::Decode(Card().Encode());
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->Encode(), Card().Encode());
  EXPECT_THAT(HostCard::Decode("127.0.0.1:4000").status(),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(HostCard::Decode(std::string(48, 'x')).status(),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST(HostCardTest, RanksAreGroupedByHostNetworkAndUser) {
  HostCard host = Card(), network = Card(), user = Card();
  host.boot_id = network.network = user.user = 1;
  using Hosts = std::vector<std::vector<int>>;
  EXPECT_EQ(RanksByHost({Card(), Card()}).value(), Hosts({{0, 1}}));
  EXPECT_EQ(RanksByHost({Card(), host, Card(), network, user, host}).value(),
            Hosts({{0, 2}, {1, 5}, {3}, {4}}));
}

TEST(HostCardTest, RanksThatAreAllAloneOrTooManyDoNotShareMemory) {
  const auto refused = [](const std::vector<HostCard>& cards, const char* what) {
    const absl::Status status = RanksByHost(cards).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(what)));
    EXPECT_TRUE(IsNotOneHost(status));
  };
  HostCard other = Card(), unknown = Card();
  other.network = 1;
  unknown.boot_id = 0;
  refused({Card(), other}, "ranks 0 and 1 differ in their network namespace");
  refused({unknown, unknown}, "boot id");
  refused(std::vector<HostCard>(65, Card()), "more than 64 are on the host of rank 0");
}

TEST(HostCardTest, TheOwnCardIsThatOfThisHostUnlessItPretends) {
  EXPECT_TRUE(RanksByHost({OwnHostCard(), OwnHostCard()}).ok());
  EXPECT_TRUE(RanksByHost({OwnHostCard(3), OwnHostCard(3)}).ok());
  EXPECT_FALSE(RanksByHost({OwnHostCard(3), OwnHostCard(4)}).ok());
}

TEST(SumInOrderTest, AddsInOrderAndMayOverwriteAnInput) {
  // (1e30 + -1e30) + 1 is 1; 1e30 + (-1e30 + 1) would be 0.
  std::vector<float> a = {1e30f, 1}, b = {-1e30f, 2}, c = {1, 3}, other(2);
  SumInOrder({a.data(), b.data(), c.data()}, 2, b.data(), other.data());
  EXPECT_THAT(b, ElementsAre(1, 6));
  EXPECT_THAT(other, ElementsAre(1, 6));
}

}  // namespace
}  // namespace vitscale
