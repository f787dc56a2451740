#include "tests/e2e/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

extern char** environ;

namespace vitscale {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> MergedEnvironment(const Environment& extra) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string name = std::string(*entry).substr(0, std::string(*entry).find('='));
    if (extra.count(name) == 0) merged.push_back(*entry);
  }
  for (const auto& [name, value] : extra) merged.push_back(absl::StrCat(name, "=", value));
  return merged;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Everything is built before the fork; the child only makes system calls.
pid_t Spawn(std::vector<std::string> arguments, const Environment& environment, int in, int out,
            int err) {
  std::vector<std::string> merged = MergedEnvironment(environment);
  std::vector<char*> argv = Pointers(arguments), envp = Pointers(merged);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  setsid();
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  for (int fd = 3; fd < 1024; ++fd) close(fd);
  execve(argv[0], argv.data(), envp.data());
  _exit(127);
}

std::string TemporaryPath() {
  std::string path = "/tmp/vitscale-e2e-XXXXXX";
  const int fd = mkstemp(path.data());
  if (fd >= 0) close(fd);
  return path;
}

int ExitCode(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

}  // namespace

CommandResult RunCommand(const std::vector<std::string>& arguments, const Environment& environment,
                         absl::Duration deadline, const std::string& input) {
  const std::string in_path = TemporaryPath(), out_path = TemporaryPath(),
                    err_path = TemporaryPath();
  std::ofstream(in_path) << input;
  const int in = open(in_path.c_str(), O_RDONLY | O_CLOEXEC);
  const int out = open(out_path.c_str(), O_WRONLY | O_CLOEXEC | O_TRUNC);
  const int err = open(err_path.c_str(), O_WRONLY | O_CLOEXEC | O_TRUNC);
  const pid_t pid = Spawn(arguments, environment, in, out, err);
  for (int fd : {in, out, err}) close(fd);
  CommandResult result;
  absl::StatusOr<int> status = WaitForExit(pid, deadline);
  if (!status.ok()) {
    kill(-pid, SIGKILL);
    (void)WaitForExit(pid, absl::Seconds(5));
  }
  result.exit_code = status.ok() ? ExitCode(*status) : 124;
  result.out = ReadAll(out_path);
  result.err = ReadAll(err_path);
  for (const std::string& path : {in_path, out_path, err_path}) unlink(path.c_str());
  return result;
}

absl::StatusOr<pid_t> StartProgram(const std::vector<std::string>& arguments,
                                   const Environment& environment, const std::string& log_path) {
  const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (log < 0 || null < 0) return absl::InternalError(absl::StrCat("open ", log_path));
  const pid_t pid = Spawn(arguments, environment, null, log, log);
  close(log);
  close(null);
  if (pid < 0) return absl::InternalError("fork");
  return pid;
}

absl::StatusOr<int> WaitForExit(pid_t pid, absl::Duration deadline) {
  const absl::Time end = absl::Now() + deadline;
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (absl::Now() > end)
      return absl::DeadlineExceededError(absl::StrCat("pid ", pid, " still runs"));
    absl::SleepFor(absl::Milliseconds(5));
  }
  return status;
}

std::vector<ProcessInfo> ProcessesWithEnvironment(const std::string& name,
                                                  const std::string& value) {
  std::vector<ProcessInfo> found;
  DIR* proc = opendir("/proc");
  const std::string wanted = absl::StrCat(name, "=", value);
  while (dirent* entry = readdir(proc)) {
    ProcessInfo info;
    if (!absl::SimpleAtoi(entry->d_name, &info.pid) || info.pid == getpid()) continue;
    const std::string folder = absl::StrCat("/proc/", info.pid);
    bool ours = false;
    const std::string environment = ReadAll(folder + "/environ");
    for (absl::string_view variable : absl::StrSplit(environment, '\0')) ours |= variable == wanted;
    if (!ours) continue;
    const std::string stat = ReadAll(folder + "/stat");
    const size_t after_name = stat.rfind(')');
    if (after_name == std::string::npos) continue;
    std::istringstream(stat.substr(after_name + 1)) >> info.state >> info.parent;
    if (info.state == 'Z') continue;
    const std::string arguments = ReadAll(folder + "/cmdline");
    std::vector<std::string> argv = absl::StrSplit(arguments, '\0', absl::SkipEmpty());
    if (argv.empty()) continue;
    info.program = argv[0].substr(argv[0].rfind('/') + 1);
    info.command = absl::StrJoin(argv, " ");
    found.push_back(info);
  }
  closedir(proc);
  return found;
}

bool IsAlive(pid_t pid) {
  const std::string stat = ReadAll(absl::StrCat("/proc/", pid, "/stat"));
  const size_t after_name = stat.rfind(')');
  return after_name != std::string::npos && stat.size() > after_name + 2 &&
         stat[after_name + 2] != 'Z';
}

}  // namespace vitscale
