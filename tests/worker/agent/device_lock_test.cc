#include "worker/agent/device_lock.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "tests/status_matchers.h"

namespace vitscale::agent {
namespace {

using testing::HasSubstr;

TEST(DeviceLockTest, ASecondOwnerIsToldWhoHoldsTheDevice) {
  TemporaryDirectory directory;
  const auto first = TakeDeviceLock(directory.path(), "cpu0", absl::ZeroDuration(), -1);
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(TakeDeviceLock(directory.path(), "cpu0", absl::Milliseconds(1), -1),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("device cpu0 is held by process " + std::to_string(getpid()))));
  EXPECT_THAT(TakeDeviceLock(directory.path(), "cpu1", absl::ZeroDuration(), -1), IsOk());
}

TEST(DeviceLockTest, AnInheritedLockOutlivesItsOwnerAndEndsWithTheLastProcess) {
  TemporaryDirectory directory;
  auto lock = TakeDeviceLock(directory.path(), "cpu0", absl::ZeroDuration(), -1);
  ASSERT_THAT(lock, IsOk());
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  *lock = UniqueFd();  // the agent is gone, its trainer is not
  EXPECT_THAT(TakeDeviceLock(directory.path(), "cpu0", absl::ZeroDuration(), -1),
              StatusIs(absl::StatusCode::kUnavailable));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_THAT(TakeDeviceLock(directory.path(), "cpu0", absl::ZeroDuration(), -1), IsOk());
}

TEST(DeviceLockTest, WaitingStopsWhenAsked) {
  TemporaryDirectory directory;
  const auto lock = TakeDeviceLock(directory.path(), "cpu0", absl::ZeroDuration(), -1);
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  ASSERT_EQ(write(fds[1], "x", 1), 1);
  EXPECT_THAT(TakeDeviceLock(directory.path(), "cpu0", absl::InfiniteDuration(), fds[0]),
              StatusIs(absl::StatusCode::kCancelled));
  close(fds[0]);
  close(fds[1]);
}

TEST(DeviceLockTest, RefusesALockThatIsASymbolicLink) {
  TemporaryDirectory directory;
  ASSERT_EQ(symlink("/etc/passwd", JoinPath(directory.path(), "cpu0.lock").c_str()), 0);
  EXPECT_FALSE(TakeDeviceLock(directory.path(), "cpu0", absl::ZeroDuration(), -1).ok());
}

}  // namespace
}  // namespace vitscale::agent
