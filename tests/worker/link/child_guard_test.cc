// A guarded child never outlives its parent, whatever kills the parent and whenever.
//
// The children are forked: they only make system calls until _exit, and this test program has no
// threads then.

#include "worker/link/child_guard.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "tests/status_matchers.h"
#include "worker/link/channel.h"

namespace vitscale::link {
namespace {

// Waits for the end of a child; its exit code, or 128 + signal.
int ExitCode(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(ChildGuardTest, PeerPidIsTheProcessThatMadeThePair) {
  auto pair = *MakeSocketPair();
  const pid_t self = getpid();
  const pid_t child = fork();
  if (child == 0) _exit(*PeerPid(pair.second.get()) == self ? 0 : 1);
  EXPECT_EQ(ExitCode(child), 0);
}

TEST(ChildGuardTest, RefusesWhenTheParentHasDiedMeanwhile) {
  const pid_t child = fork();
  if (child == 0) {
    // The real parent of this child is the test; any other expectation means "my agent is gone".
    _exit(absl::IsFailedPrecondition(ArmParentDeath(1 << 22)) ? 0 : 1);
  }
  EXPECT_EQ(ExitCode(child), 0);
}

TEST(ChildGuardTest, KillsTheGrandchildWhenItsParentIsKilled) {
  // test -> agent -> trainer. The test becomes the reaper of orphans, to see the trainer's end.
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t agent = fork();
  if (agent == 0) {
    const pid_t self = getpid();
    const pid_t trainer = fork();
    if (trainer == 0) {
      if (!ArmParentDeath(self).ok()) _exit(1);
      const pid_t pid = getpid();
      if (write(pipe_fds[1], &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
      for (;;) pause();
    }
    for (;;) pause();
  }
  pid_t trainer = 0;
  ASSERT_EQ(read(pipe_fds[0], &trainer, sizeof(trainer)), static_cast<ssize_t>(sizeof(trainer)));
  kill(agent, SIGKILL);
  EXPECT_EQ(ExitCode(agent), 137);
  EXPECT_EQ(ExitCode(trainer), 137);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

TEST(ChildGuardTest, EndOfFileOfTheLinkEndsTheProcessThoughDataWaitsUnread) {
  auto pair = *MakeSocketPair();
  const pid_t child = fork();
  if (child == 0) {
    pair.first = UniqueFd();
    WatchLink(pair.second.get());
    for (;;) pause();
  }
  pair.second = UniqueFd();
  {
    Channel agent(std::move(pair.first));
    ASSERT_THAT(agent.Send("an order that nobody reads"), IsOk());
  }
  EXPECT_EQ(ExitCode(child), 85);
}

TEST(ChildGuardTest, SignalsThatAreNotOrdersAreHeldBack) {
  const pid_t child = fork();
  if (child == 0) {
    BlockOrdersBySignal();
    raise(SIGTERM);
    raise(SIGINT);
    raise(SIGHUP);
    raise(SIGPIPE);
    _exit(42);
  }
  EXPECT_EQ(ExitCode(child), 42);
}

}  // namespace
}  // namespace vitscale::link
