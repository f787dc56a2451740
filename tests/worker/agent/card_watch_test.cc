// What is made of what a driver says of a card, and a driver that hangs.

#include "worker/agent/card_watch.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "tests/status_matchers.h"
#include "tests/worker/agent/cards.h"

namespace vitscale::agent {
namespace {

using testing::HasSubstr;

TEST(DeviceUseTest, ProcessesOfTheOwnTrainerAreNotForeign) {
  const auto group_of = [](int64_t pid) { return pid / 10 * 10; };
  Card card = SomeCard();
  card.processes = {{41, 1}, {42, 1}, {77, 1}};
  EXPECT_EQ(DeviceUseOf(card, 40, group_of).foreign_processes, 1);
  EXPECT_EQ(DeviceUseOf(card, 0, group_of).foreign_processes, 3);
  EXPECT_EQ(DeviceUseOf(card, 0, group_of).dirty, "process 41 holds 0.0 GB of it, and 2 more");
  // Numbers of another namespace: its own trainer must be among them, so none says anything.
  EXPECT_EQ(DeviceUseOf(card, 900, group_of).foreign_processes, 0);
  // 0 is one that is not seen from here, and no number for getpgid, which takes it for the caller.
  card.processes = {{0, 1}, {41, 1}};
  EXPECT_EQ(DeviceUseOf(card, 40, [](int64_t) { return int64_t{40}; }).foreign_processes, 1);
}

TEST(DeviceUseTest, ACardThatCannotBeReadIsNotFree) {
  const auto use = DeviceUseOf(absl::InternalError("card 0: NVML: memory: error 15 (GPU is lost)"),
                               0, [](int64_t) { return int64_t{0}; });
  EXPECT_EQ(use.dirty, "card 0: NVML: memory: error 15 (GPU is lost)");
}

TEST(DeviceUseTest, SmallMovesOfMemoryAreNoNews) {
  Card card = SomeCard();
  const auto group_of = [](int64_t) { return int64_t{0}; };
  card.used_bytes = 100'000'000;
  const auto before = DeviceUseOf(card, 0, group_of);
  card.used_bytes += 200'000;
  EXPECT_EQ(DeviceUseOf(card, 0, group_of), before);
  card.used_bytes += 100'000'000;
  EXPECT_NE(DeviceUseOf(card, 0, group_of), before);
}

// ---- the watch -------------------------------------------------------------------

// Answers as the test says; shared, for it outlives a watch whose driver hangs.
class FakeNvml : public Nvml {
 public:
  explicit FakeNvml(std::function<absl::StatusOr<Card>(int index)> read) : read_(std::move(read)) {}
  absl::StatusOr<int> Count() override { return 1; }
  absl::StatusOr<Card> Read(int index) override { return read_(index); }

 private:
  const std::function<absl::StatusOr<Card>(int)> read_;
};

// What a watch has seen, one after the other.
class Sightings {
 public:
  CardWatch::Seen Sink() {
    return [this](const absl::StatusOr<Card>& card) {
      absl::MutexLock lock(&mutex_);
      seen_.push_back(card.status());
    };
  }
  // The status `index` from the start; waits for it.
  absl::Status At(size_t index) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return seen_.size() > index; };
    mutex_.Await(absl::Condition(&there));
    return seen_[index];
  }

 private:
  absl::Mutex mutex_;
  std::vector<absl::Status> seen_ ABSL_GUARDED_BY(mutex_);
};

CardWatchOptions Quick() {
  return {.card = 3,
          .uuid = "GPU-aaaa",
          .interval = absl::Milliseconds(1),
          .patience = absl::Milliseconds(5)};
}

TEST(CardWatchTest, ReadsItsCardAgainAndAgain) {
  Sightings sightings;
  CardWatchOptions options = Quick();
  options.patience = absl::Hours(1);
  CardWatch watch(
      std::make_unique<FakeNvml>([calls = 0](int index) mutable -> absl::StatusOr<Card> {
        EXPECT_EQ(index, 3);
        if (++calls == 2) return absl::InternalError("card 3: GPU is lost");
        return SomeCard();
      }),
      options, sightings.Sink());
  EXPECT_THAT(sightings.At(0), IsOk());
  EXPECT_THAT(sightings.At(1), StatusIs(absl::StatusCode::kInternal, HasSubstr("GPU is lost")));
  EXPECT_THAT(sightings.At(2), IsOk());
}

TEST(CardWatchTest, ADriverThatHangsIsToldAndHoldsUpNoEnd) {
  const auto answer = std::make_shared<absl::Notification>();
  const auto answered = std::make_shared<absl::Notification>();
  Sightings sightings;
  {
    CardWatch watch(std::make_unique<FakeNvml>([=](int) -> absl::StatusOr<Card> {
                      answer->WaitForNotification();
                      answered->Notify();
                      return SomeCard();
                    }),
                    Quick(), sightings.Sink());
    for (size_t i : {0, 1}) {
      EXPECT_THAT(sightings.At(i),
                  StatusIs(absl::StatusCode::kUnavailable,
                           HasSubstr("card 3: its driver has not answered for 5ms")));
    }
  }  // ends while the driver is being asked
  answer->Notify();
  answered->WaitForNotification();
}

TEST(CardWatchTest, ADriverThatComesBackIsHeardAgain) {
  absl::Notification answer;
  Sightings sightings;
  CardWatch watch(std::make_unique<FakeNvml>([&answer](int) -> absl::StatusOr<Card> {
                    answer.WaitForNotification();
                    return SomeCard();
                  }),
                  Quick(), sightings.Sink());
  EXPECT_THAT(sightings.At(0), StatusIs(absl::StatusCode::kUnavailable));
  answer.Notify();
  size_t i = 1;
  while (!sightings.At(i).ok()) ++i;
  EXPECT_THAT(sightings.At(i), IsOk());
}

TEST(CardWatchTest, AnotherCardInItsPlaceIsNotTheWorkersCard) {
  Sightings sightings;
  CardWatch watch(std::make_unique<FakeNvml>([](int) -> absl::StatusOr<Card> {
                    Card card = SomeCard();
                    card.uuid = "GPU-bbbb";
                    return card;
                  }),
                  Quick(), sightings.Sink());
  absl::Status status = sightings.At(0);
  for (size_t i = 1; absl::IsUnavailable(status); ++i) status = sightings.At(i);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                               HasSubstr("card 3 is another one by now: GPU-bbbb")));
}

}  // namespace
}  // namespace vitscale::agent
