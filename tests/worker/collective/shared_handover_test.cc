// Who gets the memory of rank 0, and how ranks wait in it.

#include "worker/collective/shared_handover.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/base/clock.h"
#include "kernels/base/random.h"
#include "tests/status_matchers.h"
#include "worker/collective/shared_peers.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Rank 0's side of a handover to `world_size` ranks, all in this process.
class Handover {
 public:
  explicit Handover(int world_size) : world_size_(world_size) {
    card_ = OwnHostCard();
    card_.nonce = SystemRandom().Next() | 1;
    card_.socket = SystemRandom().Next();
    listener_ = *ListenForHandover(card_);
  }

  SharedShape Shape() const { return {card_.nonce, world_size_, 4096}; }
  HandoverTerms Terms(int rank, absl::Duration time = absl::Seconds(20)) const {
    return {rank, world_size_, card_, RealClock().Monotonic() + time,
            [this] { return cancelled_.load(); }};
  }
  absl::StatusOr<std::vector<UniqueFd>> Give(absl::Duration time = absl::Seconds(20)) const {
    return HandOut(
        Terms(0, time), listener_.get(), [this] { return SharedRegion::CreateMemory(Shape()); },
        [](int) { return absl::OkStatus(); });
  }

  const int world_size_;
  HostCard card_;
  UniqueFd listener_;
  std::atomic<bool> cancelled_{false};
};

absl::Status MapNothing(int) { return absl::OkStatus(); }

TEST(SharedHandoverTest, EveryRankGetsTheMemoryAndAPidfdOfEveryRank) {
  const Handover handover(3);
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int rank : {1, 2}) {
    threads.emplace_back([&, rank] {
      const auto pidfds = Receive(handover.Terms(rank), [&](int memory) {
        return SharedRegion::Map(memory, handover.Shape()).status();
      });
      good += pidfds.ok() && pidfds->size() == 3;
    });
  }
  const auto pidfds = handover.Give();
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(pidfds.ok()) << pidfds.status();
  EXPECT_EQ(pidfds->size(), 3u);
  EXPECT_EQ(good, 2);
}

TEST(SharedHandoverTest, StrangersWhoDoNotKnowTheNonceGetNothingAndDisturbNobody) {
  const Handover handover(2);
  absl::Status stranger;
  std::thread others([&] {
    HandoverTerms terms = handover.Terms(1);
    terms.host.nonce ^= 1;
    stranger = Receive(terms, MapNothing).status();
    EXPECT_TRUE(Receive(handover.Terms(1), MapNothing).ok());
  });
  EXPECT_TRUE(handover.Give().ok());
  others.join();
  EXPECT_THAT(stranger, StatusIs(absl::StatusCode::kUnavailable));
}

TEST(SharedHandoverTest, WhereOneRankCannotMapNobodyGoesOn) {
  const Handover handover(3);
  std::vector<absl::Status> ends(3);
  std::vector<std::thread> threads;
  for (int rank : {1, 2}) {
    threads.emplace_back([&, rank] {
      ends[rank] = Receive(handover.Terms(rank), [rank](int) {
                     return rank == 1 ? absl::OkStatus() : absl::InternalError("no room");
                   }).status();
    });
  }
  ends[0] = handover.Give().status();
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& end : ends) EXPECT_TRUE(IsNotOneHost(end)) << end;
  EXPECT_THAT(ends[0].message(), HasSubstr("rank 2"));
  EXPECT_THAT(ends[2].message(), HasSubstr("no room"));
}

TEST(SharedHandoverTest, WhereTheLeaderHasNoMemoryNobodyGoesOn) {
  const Handover handover(2);
  absl::Status end;
  std::thread other([&] { end = Receive(handover.Terms(1), MapNothing).status(); });
  const absl::Status own =
      HandOut(
          handover.Terms(0), handover.listener_.get(),
          []() -> absl::StatusOr<UniqueFd> { return absl::ResourceExhaustedError("no memory"); },
          MapNothing)
          .status();
  other.join();
  EXPECT_TRUE(IsNotOneHost(own)) << own;
  EXPECT_THAT(own.message(), HasSubstr("no memory"));
  EXPECT_TRUE(IsNotOneHost(end)) << end;
}

TEST(SharedHandoverTest, RanksThatDoNotComeOrACancelEndRankZerosWait) {
  Handover handover(2);
  const absl::Status late = handover.Give(absl::Milliseconds(50)).status();
  EXPECT_TRUE(IsNotOneHost(late)) << late;
  handover.cancelled_ = true;
  EXPECT_THAT(handover.Give().status(), StatusIs(absl::StatusCode::kCancelled));
}

TEST(SharedHandoverTest, WithoutRankZerosSocketARankKnowsAtOnce) {
  Handover handover(2);
  handover.listener_.reset();
  const absl::Status status = Receive(handover.Terms(1), MapNothing).status();
  EXPECT_TRUE(IsNotOneHost(status)) << status;
}

// Two ranks of this process.
class SharedPeersTest : public ::testing::Test {
 protected:
  SharedPeersTest() : memory_(*SharedRegion::CreateMemory(kShape)) {
    for (int rank : {0, 1}) {
      std::vector<UniqueFd> pidfds;
      for (int i = 0; i < 2; ++i) {
        pidfds.emplace_back(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
      }
      peers_.push_back(std::make_unique<SharedPeers>(*SharedRegion::Map(memory_.get(), kShape),
                                                     std::move(pidfds), rank));
    }
  }
  static constexpr SharedShape kShape = {1, 2, 4096};
  const UniqueFd memory_;
  std::vector<std::unique_ptr<SharedPeers>> peers_;
};

TEST_F(SharedPeersTest, CountsMayWrap) {
  constexpr uint64_t kWrap = uint64_t{1} << 32;
  for (uint64_t chunks : {kWrap / 4, kWrap / 2, kWrap / 4 * 3, kWrap - 1}) {
    peers_[0]->Advance(Mark::kInputs, chunks);
  }
  EXPECT_TRUE(peers_[1]->AwaitAll(Mark::kInputs, kWrap - 1).ok());
  std::thread late([this] { peers_[0]->Advance(Mark::kInputs, kWrap + 1); });
  EXPECT_TRUE(peers_[1]->AwaitAll(Mark::kInputs, kWrap + 1).ok());
  late.join();
  EXPECT_EQ(peers_[1]->region().block(0).done[0], 1u);
}

TEST_F(SharedPeersTest, WhoHasDoneItsPartMayLeaveAndWhoHasNotIsGone) {
  peers_[0]->Advance(Mark::kInputs, 1);
  peers_[0]->Leave();
  EXPECT_TRUE(peers_[1]->AwaitAll(Mark::kInputs, 1).ok());
  EXPECT_THAT(peers_[1]->Gone(), IsEmpty());
  EXPECT_THAT(peers_[1]->AwaitAll(Mark::kParts, 1),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 0 has left")));
  EXPECT_THAT(peers_[1]->Gone(), ElementsAre(0));
}

TEST_F(SharedPeersTest, AWaitEndsWhenTheOwnRankLeaves) {
  std::thread leaver([this] { peers_[1]->Leave(); });
  EXPECT_THAT(peers_[1]->AwaitAll(Mark::kInputs, 1), StatusIs(absl::StatusCode::kCancelled));
  leaver.join();
}

}  // namespace
}  // namespace vitscale
