#include "worker/collective/rendezvous.h"

#include <string>
#include <thread>
#include <vector>

#include "kernels/base/net.h"
#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

RendezvousIdentity Identity() {
  RendezvousIdentity identity;
  identity.secret = "open sesame";
  identity.job_hash = 1;
  identity.attempt = 2;
  identity.generation = 3;
  identity.plan_hash = 4;
  return identity;
}

struct Outcome {
  absl::StatusOr<std::vector<std::string>> host = absl::UnknownError("not run");
  absl::StatusOr<std::vector<std::string>> join = absl::UnknownError("not run");
};

// Rank 0 of two hosts Identity(); `disturb` may do what it likes meanwhile; then rank 1 joins with
// `guest`.
Outcome Meet(const RendezvousIdentity& guest,
             const std::function<void(const std::string& address)>& disturb = nullptr,
             absl::Duration timeout = absl::Seconds(20)) {
  const auto listener = *RendezvousListener::Open("127.0.0.1");
  Outcome outcome;
  Rendezvous host(Identity(), 0, 2);
  std::thread thread([&] { outcome.host = host.Host(*listener, "zero", timeout); });
  if (disturb) disturb(listener->address());
  Rendezvous join(guest, 1, 2);
  outcome.join = join.Join(listener->address(), "one", timeout);
  if (!outcome.join.ok()) host.Cancel();
  thread.join();
  return outcome;
}

TEST(RendezvousTest, EveryRankGetsTheBlobsOfAll) {
  const Outcome outcome = Meet(Identity());
  ASSERT_TRUE(outcome.host.ok()) << outcome.host.status();
  EXPECT_EQ(*outcome.host, (std::vector<std::string>{"zero", "one"}));
  EXPECT_EQ(*outcome.join, *outcome.host);
}

TEST(RendezvousTest, AWrongSecretIsRefusedAndTheSecretIsNotTold) {
  RendezvousIdentity stranger = Identity();
  stranger.secret = "open barley";
  const Outcome outcome = Meet(stranger);
  EXPECT_THAT(outcome.join.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("wrong secret")));
  EXPECT_THAT(std::string(outcome.join.status().message()), Not(HasSubstr("sesame")));
  EXPECT_THAT(outcome.host.status(), StatusIs(absl::StatusCode::kCancelled));
}

TEST(RendezvousTest, AnOlderGenerationIsRefusedWithBothNumbers) {
  RendezvousIdentity old = Identity();
  old.generation = 2;
  EXPECT_THAT(Meet(old).join.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("generation 2 came, want attempt 2 generation 3")));
}

TEST(RendezvousTest, ANewerGenerationWaitsForRankZeroToGetThere) {
  RendezvousIdentity early = Identity();
  early.generation = 4;
  EXPECT_THAT(Meet(early, nullptr, absl::Milliseconds(300)).join.status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("want attempt 2 generation 3")));
}

TEST(RendezvousTest, AnotherPlanIsRefusedByName) {
  RendezvousIdentity other = Identity();
  other.plan_hash = 5;
  EXPECT_THAT(Meet(other).join.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("plan 5 of rank 1")));
}

TEST(RendezvousTest, SilentAndTalkativeStrangersDoNotDisturb) {
  std::vector<UniqueFd> strangers;
  const Outcome outcome = Meet(Identity(), [&](const std::string& address) {
    for (int i = 0; i < 3; ++i) {
      strangers.push_back(*ConnectTcp(*ParseHostPort(address), absl::Seconds(5)));
    }
    (void)WriteAll(strangers[1].get(), "GET / HTTP/1.1\r\n\r\n", absl::Seconds(1));
    (void)WriteAll(strangers[2].get(), std::string(4096, '\xff'), absl::Seconds(1));
  });
  EXPECT_TRUE(outcome.host.ok()) << outcome.host.status();
  EXPECT_TRUE(outcome.join.ok()) << outcome.join.status();
}

TEST(RendezvousTest, ARankThatComesBackReplacesItsLostConnection) {
  const auto listener = *RendezvousListener::Open("127.0.0.1");
  absl::StatusOr<std::vector<std::string>> met = absl::UnknownError("not run");
  Rendezvous host(Identity(), 0, 3);
  std::thread thread([&] { met = host.Host(*listener, "zero", absl::Seconds(20)); });
  {
    Rendezvous first(Identity(), 1, 3);
    EXPECT_THAT(first.Join(listener->address(), "lost", absl::Milliseconds(100)).status(),
                StatusIs(absl::StatusCode::kUnavailable));
  }
  std::thread second([&] {
    Rendezvous join(Identity(), 1, 3);
    EXPECT_TRUE(join.Join(listener->address(), "one", absl::Seconds(20)).ok());
  });
  Rendezvous join(Identity(), 2, 3);
  EXPECT_TRUE(join.Join(listener->address(), "two", absl::Seconds(20)).ok());
  second.join();
  thread.join();
  ASSERT_TRUE(met.ok()) << met.status();
  EXPECT_EQ(*met, (std::vector<std::string>{"zero", "one", "two"}));
}

TEST(RendezvousTest, AnAddressThatCannotBeBoundIsNamed) {
  EXPECT_THAT(RendezvousListener::Open("192.0.2.1").status().ToString(), HasSubstr("192.0.2.1"));
}

}  // namespace
}  // namespace vitscale
