// A program under test as a process.

#ifndef TESTS_WORKER_TRAINER_CHILD_PROCESS_H_
#define TESTS_WORKER_TRAINER_CHILD_PROCESS_H_

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/files.h"
#include "worker/link/channel.h"

extern char** environ;

namespace vitscale {

// A running program whose standard output and error go to a file.
class ChildProcess {
 public:
  ChildProcess(std::vector<std::string> arguments, const std::string& output, int link_fd = -1) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_CREAT | O_WRONLY | O_APPEND,
                                     0644);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    if (link_fd >= 0) posix_spawn_file_actions_adddup2(&actions, link_fd, link::kTrainerLinkFd);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0)
        << arguments[0];
    posix_spawn_file_actions_destroy(&actions);
  }
  ~ChildProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
  }
  void Signal(int number) const { kill(pid_, number); }
  // Exit code; 128 + n for a signal.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
};

inline std::string ReadText(const std::string& path) {
  const auto text = PosixFileSystem().ReadFile(path, 1 << 22);
  return text.ok() ? *text : "";
}

}  // namespace vitscale

#endif  // TESTS_WORKER_TRAINER_CHILD_PROCESS_H_
