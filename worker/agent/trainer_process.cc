#include "worker/agent/trainer_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/link/channel.h"

namespace vitscale::agent {
namespace {

// Above every number that the child's descriptors get, so that no dup2 there overwrites a source.
constexpr int kFirstFreeFd = 10;

absl::StatusOr<UniqueFd> MoveUp(int fd, absl::string_view what) {
  const int moved = fcntl(fd, F_DUPFD_CLOEXEC, kFirstFreeFd);
  if (moved < 0) return ErrnoStatus(errno, absl::StrCat("duplicate ", what));
  return UniqueFd(moved);
}

struct Pipe {
  UniqueFd read, write;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus(errno, "create pipe");
  Pipe pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
  // Only the reader: the trainer may block when the agent is slow, the agent never.
  if (fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus(errno, "make pipe non-blocking");
  VITSCALE_ASSIGN_OR_RETURN(pipe.write, MoveUp(fds[1], "pipe"));
  return pipe;
}

// posix_spawn's calls return the error instead of setting errno.
absl::Status Check(int error, absl::string_view what) {
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, what);
}

absl::Status SetAttributes(posix_spawnattr_t* attributes) {
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&blocked, number);
  VITSCALE_RETURN_IF_ERROR(
      Check(posix_spawnattr_setsigmask(attributes, &blocked), "set signal mask"));
  return Check(posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID),
               "set spawn flags");
}

absl::Status SetFiles(posix_spawn_file_actions_t* actions, int output, int error, int link,
                      int lock) {
  VITSCALE_RETURN_IF_ERROR(Check(
      posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0), "open /dev/null"));
  const std::pair<int, int> moves[] = {
      {output, 1}, {error, 2}, {link, link::kTrainerLinkFd}, {lock, link::kTrainerLockFd}};
  for (auto [from, to] : moves) {
    VITSCALE_RETURN_IF_ERROR(
        Check(posix_spawn_file_actions_adddup2(actions, from, to), "place descriptor"));
  }
  return Check(posix_spawn_file_actions_addclosefrom_np(actions, link::kTrainerLockFd + 1),
               "close descriptors");
}

}  // namespace

absl::StatusOr<TrainerProcess> TrainerProcess::Start(const std::string& program,
                                                     const std::vector<std::string>& arguments,
                                                     int lock_fd) {
  TrainerProcess process;
  VITSCALE_ASSIGN_OR_RETURN(Pipe output, MakePipe());
  VITSCALE_ASSIGN_OR_RETURN(Pipe error, MakePipe());
  VITSCALE_ASSIGN_OR_RETURN(auto pair, link::MakeSocketPair());
  VITSCALE_ASSIGN_OR_RETURN(const UniqueFd link, MoveUp(pair.second.get(), "link"));
  VITSCALE_ASSIGN_OR_RETURN(const UniqueFd lock, MoveUp(lock_fd, "device lock"));
  if (fcntl(pair.first.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoStatus(errno, "make link non-blocking");
  }

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  VITSCALE_RETURN_IF_ERROR(Check(posix_spawn_file_actions_init(&actions), "spawn"));
  absl::Cleanup drop_actions = [&] { posix_spawn_file_actions_destroy(&actions); };
  VITSCALE_RETURN_IF_ERROR(Check(posix_spawnattr_init(&attributes), "spawn"));
  absl::Cleanup drop_attributes = [&] { posix_spawnattr_destroy(&attributes); };
  VITSCALE_RETURN_IF_ERROR(SetAttributes(&attributes));
  VITSCALE_RETURN_IF_ERROR(
      SetFiles(&actions, output.write.get(), error.write.get(), link.get(), lock.get()));

  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  VITSCALE_RETURN_IF_ERROR(Check(
      posix_spawn(&process.pid_, program.c_str(), &actions, &attributes, argv.data(), environ),
      absl::StrCat("start '", program, "'")));
  // It is our child and nobody else reaps it, so the number still means this process.
  process.pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, process.pid_, 0)));
  if (!process.pidfd_.valid()) {
    const absl::Status status = ErrnoStatus(errno, "open a descriptor of the trainer");
    process.KillGroup();
    (void)waitpid(process.pid_, nullptr, 0);
    return status;
  }
  process.link_ = std::move(pair.first);
  process.output_ = std::move(output.read);
  process.error_ = std::move(error.read);
  return process;
}

void TrainerProcess::KillGroup() const { (void)kill(-pid_, SIGKILL); }

std::optional<int> TrainerProcess::Reap() {
  siginfo_t info{};
  if (waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
    return std::nullopt;
  }
  KillGroup();
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) return std::nullopt;
  reaped_ = true;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool TrainerProcess::GroupEmpty() const { return reaped_ && kill(-pid_, 0) != 0 && errno == ESRCH; }

}  // namespace vitscale::agent
