#include "server/local_workers/local_workers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/await.h"
#include "kernels/base/files.h"
#include "kernels/base/log.h"
#include "kernels/base/unique_fd.h"

extern char** environ;

namespace vitscale {
namespace {

constexpr absl::Duration kLongLife = absl::Minutes(1);
constexpr absl::Duration kAfterKill = absl::Seconds(10);

std::string ReadSmallFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Starts a program in a session of its own with both outputs appended to a log; its pid, or 0 with
// errno in `error`. Signals are at their defaults in the child, whatever this process blocks or
// ignores.
pid_t SpawnDetached(const std::vector<std::string>& arguments, const std::string& log, int& error) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0640);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = 0;
  error = posix_spawn(&pid, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return error == 0 ? pid : 0;
}

std::string DescribeEnd(int wait_status) {
  return WIFSIGNALED(wait_status) ? absl::StrCat("signal ", WTERMSIG(wait_status))
                                  : absl::StrCat("exit code ", WEXITSTATUS(wait_status));
}

}  // namespace

LocalWorkers::LocalWorkers(LocalWorkersOptions options, Clock& clock)
    : options_(std::move(options)), clock_(clock) {
  const absl::Time first = clock_.Monotonic() + options_.first_start;
  slots_.resize(options_.count);
  for (Slot& slot : slots_) {
    slot.next_start = first;
    slot.backoff = options_.backoff_min;
  }
  thread_ = std::thread(&LocalWorkers::Run, this);
}

LocalWorkers::~LocalWorkers() {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }
  thread_.join();
}

void LocalWorkers::Run() {
  absl::MutexLock lock(&mutex_);
  while (!ended_) {
    for (int device = 0; device < options_.count; ++device) Tend(device, clock_.Monotonic());
    AwaitFor(mutex_, absl::Condition(&ended_), options_.poll);
  }
}

void LocalWorkers::Tend(int device, absl::Time now) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (Reap(device, now) || stopping_) return;
  Slot& slot = slots_[device];
  if (slot.child == 0 && now >= slot.next_start && IsFree(device)) StartAgent(device, now);
}

// True while a child of ours lives.
bool LocalWorkers::Reap(int device, absl::Time now) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  Slot& slot = slots_[device];
  if (slot.child == 0) return false;
  int status = 0;
  const pid_t ended = waitpid(slot.child, &status, WNOHANG);
  if (ended == 0) return true;
  if (now - slot.started > kLongLife) slot.backoff = options_.backoff_min;
  slot.next_start = now + slot.backoff;
  if (!stopping_) {
    VITSCALE_LOG(WARNING) << "worker " << options_.id_prefix << DeviceName(device) << " (pid "
                          << slot.child << ") ended with " << DescribeEnd(status)
                          << "; starting it again in " << absl::FormatDuration(slot.backoff);
  }
  slot.backoff = std::min(2 * slot.backoff, options_.backoff_max);
  slot.child = 0;
  return false;
}

void LocalWorkers::StartAgent(int device, absl::Time now) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const std::string id = absl::StrCat(options_.id_prefix, DeviceName(device));
  const std::string state = absl::StrCat(options_.state_directory, "/", id);
  std::vector<std::string> arguments = {
      options_.program, absl::StrCat("--device=", DeviceName(device)),
      absl::StrCat("--worker-id=", id), absl::StrCat("--state-dir=", state),
      absl::StrCat("--lock-dir=", options_.lock_directory)};
  arguments.insert(arguments.end(), options_.flags.begin(), options_.flags.end());
  Slot& slot = slots_[device];
  slot.started = now;
  int error = 0;
  if (const absl::Status made = PosixFileSystem().MakeDirectories(options_.state_directory);
      !made.ok()) {
    VITSCALE_LOG(ERROR) << made.message();  // the log file cannot be opened then: said below
  }
  slot.child = SpawnDetached(arguments, state + ".log", error);
  if (slot.child != 0) return;
  slot.next_start = now + slot.backoff;
  slot.backoff = std::min(2 * slot.backoff, options_.backoff_max);
  VITSCALE_LOG(ERROR) << "cannot start '" << options_.program << "': " << strerror(error);
}

std::string LocalWorkers::DeviceName(int device) const { return absl::StrCat("cpu", device); }

std::string LocalWorkers::LockPath(int device) const {
  return absl::StrCat(options_.lock_directory, "/", DeviceName(device), ".lock");
}

bool LocalWorkers::IsFree(int device) const {
  UniqueFd lock(open(LockPath(device).c_str(), O_RDWR | O_CLOEXEC));
  return !lock.valid() || flock(lock.get(), LOCK_EX | LOCK_NB) == 0;
}

// The lock file names a process id, which another program may have by now: its command line must be
// that of our agent for this device.
pid_t LocalWorkers::Owner(int device) const {
  pid_t pid = 0;
  std::istringstream(ReadSmallFile(LockPath(device))) >> pid;
  if (pid <= 0 || IsFree(device)) return 0;
  const std::string command = ReadSmallFile(absl::StrCat("/proc/", pid, "/cmdline"));
  const std::string lock_flag = absl::StrCat("--lock-dir=", options_.lock_directory);
  const std::string device_flag = absl::StrCat("--device=", DeviceName(device));
  const bool ours = command.find(lock_flag) != std::string::npos &&
                    command.find(device_flag) != std::string::npos;
  return ours ? pid : 0;
}

std::vector<pid_t> LocalWorkers::Agents() const {
  absl::MutexLock lock(&mutex_);
  std::vector<pid_t> agents;
  for (int device = 0; device < options_.count; ++device) {
    agents.push_back(slots_[device].child != 0 ? slots_[device].child : Owner(device));
  }
  return agents;
}

void LocalWorkers::SignalAll(int signal) {
  for (pid_t agent : Agents()) {
    if (agent > 0) kill(signal == SIGKILL ? -agent : agent, signal);
  }
}

bool LocalWorkers::WaitUntilFree(absl::Duration wait) {
  const absl::Time deadline = clock_.Monotonic() + wait;
  while (true) {
    bool all_free = true;
    for (int device = 0; device < options_.count; ++device) all_free &= IsFree(device);
    for (pid_t agent : Agents()) all_free &= agent == 0;
    if (all_free || clock_.Monotonic() >= deadline) return all_free;
    usleep(20'000);
  }
}

absl::Status LocalWorkers::Stop(absl::Duration grace) {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  SignalAll(SIGTERM);
  if (WaitUntilFree(grace)) return absl::OkStatus();
  VITSCALE_LOG(WARNING) << "workers did not leave within " << absl::FormatDuration(grace)
                        << "; killing them";
  SignalAll(SIGKILL);
  if (WaitUntilFree(kAfterKill)) return absl::OkStatus();
  std::vector<std::string> busy;
  for (int device = 0; device < options_.count; ++device) {
    if (!IsFree(device)) busy.push_back(DeviceName(device));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("devices still held after SIGKILL: ", absl::StrJoin(busy, ", ")));
}

}  // namespace vitscale
