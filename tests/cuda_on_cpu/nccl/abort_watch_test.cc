#include "kernels/cuda/nccl/abort_watch.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vitscale::cuda {
namespace {

constexpr absl::Duration kLong = absl::Minutes(10);

TEST(AbortWatchTest, AnAbortRunsOnceHoweverOftenItIsBegun) {
  std::atomic<int> aborts{0}, hung{0};
  {
    AbortWatch watch(kLong, [&] { ++hung; });
    for (int i = 0; i < 3; ++i) watch.Begin([&] { ++aborts; });
  }
  EXPECT_EQ(aborts, 1);
  EXPECT_EQ(hung, 0);
}

TEST(AbortWatchTest, WithoutAnAbortNothingRuns) {
  std::atomic<int> hung{0};
  {
    AbortWatch watch(absl::ZeroDuration(), [&] { ++hung; });
  }
  EXPECT_EQ(hung, 0);
}

TEST(AbortWatchTest, AnAbortThatHangsIsToldOnceAndBeginDoesNotWaitForIt) {
  std::atomic<int> hung{0};
  absl::Notification told, release;
  {
    AbortWatch watch(absl::Milliseconds(1), [&] {
      if (++hung == 1) told.Notify();
    });
    watch.Begin([&] { release.WaitForNotification(); });
    told.WaitForNotification();
    release.Notify();
  }
  EXPECT_EQ(hung, 1);
}

}  // namespace
}  // namespace vitscale::cuda
