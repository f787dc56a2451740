#include "worker/link/child_guard.h"

#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/link/messages.h"

namespace vitscale::link {

void BlockOrdersBySignal() {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&blocked, number);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
}

absl::StatusOr<pid_t> PeerPid(int link_fd) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(link_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return absl::UnavailableError(
        ErrnoStatus(errno, absl::StrCat("read the peer of link descriptor ", link_fd)).message());
  }
  return credentials.pid;
}

absl::Status ArmParentDeath(pid_t expected_parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return ErrnoStatus(errno, "prctl PR_SET_PDEATHSIG");
  if (const pid_t parent = getppid(); parent != expected_parent) {
    return absl::FailedPreconditionError(absl::StrCat("parent is process ", parent, ", not agent ",
                                                      expected_parent, ": it has died"));
  }
  return absl::OkStatus();
}

void WatchLink(int link_fd) {
  std::thread([link_fd] {
    for (;;) {
      // Not POLLIN: bytes that wait for the receiving thread must not wake this one again and
      // again.
      pollfd entry{link_fd, POLLRDHUP, 0};
      if (poll(&entry, 1, -1) > 0) _exit(static_cast<int>(TrainerExit::kFenced));
      if (errno != EINTR) _exit(static_cast<int>(TrainerExit::kFenced));
    }
  }).detach();
}

}  // namespace vitscale::link
