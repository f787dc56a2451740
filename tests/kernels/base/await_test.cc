#include "kernels/base/await.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace vitscale {
namespace {

TEST(AwaitForTest, ReturnsTrueOnceTheConditionHolds) {
  absl::Mutex mutex;
  bool done = false;
  std::thread other([&] {
    absl::MutexLock lock(&mutex);
    done = true;
  });
  {
    absl::MutexLock lock(&mutex);
    EXPECT_TRUE(AwaitFor(mutex, absl::Condition(&done), absl::Hours(1)));
  }
  other.join();
}

TEST(AwaitForTest, ReturnsFalseWithTheMutexHeldWhenTheTimeIsUp) {
  absl::Mutex mutex;
  bool never = false;
  absl::MutexLock lock(&mutex);
  EXPECT_FALSE(AwaitFor(mutex, absl::Condition(&never), absl::Milliseconds(5)));
  mutex.AssertHeld();
}

TEST(AwaitForTest, OnlyLooksWhenThereIsNoTime) {
  absl::Mutex mutex;
  bool yes = true, no = false;
  absl::MutexLock lock(&mutex);
  EXPECT_TRUE(AwaitFor(mutex, absl::Condition(&yes), absl::ZeroDuration()));
  EXPECT_FALSE(AwaitFor(mutex, absl::Condition(&no), -absl::Hours(1)));
}

TEST(AwaitForTest, AMutexThatIsNeverFreeDelaysNobodyElse) {
  absl::Mutex busy, mutex;
  bool never = false;
  std::thread waiter([&] {  // its time is up while we hold `busy`
    absl::MutexLock lock(&busy);
    EXPECT_FALSE(AwaitFor(busy, absl::Condition(&never), absl::Milliseconds(2)));
  });
  {
    absl::MutexLock hold(&busy);
    absl::MutexLock lock(&mutex);
    EXPECT_FALSE(AwaitFor(mutex, absl::Condition(&never), absl::Milliseconds(20)));
  }
  waiter.join();
}

TEST(AwaitForTest, AForkedChildHasAlarmsOfItsOwn) {
  const auto wait = [] {
    absl::Mutex mutex;
    bool never = false;
    absl::MutexLock lock(&mutex);
    return AwaitFor(mutex, absl::Condition(&never), absl::Milliseconds(1));
  };
  EXPECT_FALSE(wait());
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a wait that never ends is a failure, not a hang
    _exit(wait() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(AwaitForTest, TheMutexMayGoRightAfterTheWait) {
  std::vector<std::thread> threads;
  std::atomic<int> expired{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&expired] {
      for (int i = 0; i < 200; ++i) {
        const auto mutex = std::make_unique<absl::Mutex>();
        bool never = false;
        absl::MutexLock lock(mutex.get());
        expired += !AwaitFor(*mutex, absl::Condition(&never), absl::Microseconds(10 * (i % 7)));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(expired, 8 * 200);
}

}  // namespace
}  // namespace vitscale
