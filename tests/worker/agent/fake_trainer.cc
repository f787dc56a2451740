// A trainer that trains nothing: obeys, ignores, crashes or misbehaves as the `faults` of its setup
// say.
//
//   obey       reaches each stage it is told, exits with 0 when told to exit
//   ignore     never exits by itself
//   crash      aborts when it is told to go
//   exit=<n>   exits with code n when it is told to go
//   garbage    sends no message but noise when it is told to go
//   close      closes its link when it is told to go, and stays
//   child      starts a process in its group that outlives it, and exits when it is told to
//   talk       prints a lot, the last line without an end, and exits with 7 when it is told to go
//
// It prints which descriptors it has and its process id, and reports a step a message.

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "worker/link/channel.h"
#include "worker/link/child_guard.h"
#include "worker/link/codec.h"

namespace vitscale::link {
namespace {

void PrintDescriptors() {
  std::string list;
  DIR* directory = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] == '.' || std::atoi(entry->d_name) == dirfd(directory)) continue;
    list += std::string(" ") + entry->d_name;
  }
  closedir(directory);
  std::printf("descriptors%s\n", list.c_str());
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  std::printf("session %d group %d term blocked %d\n", getsid(0) == getpid(), getpgrp() == getpid(),
              sigismember(&blocked, SIGTERM));
  std::fflush(stdout);
}

class FakeTrainer {
 public:
  explicit FakeTrainer(int fd) : channel_(UniqueFd(fd)) {}

  int Run() {
    for (;;) {
      const auto bytes = channel_.Receive(absl::Milliseconds(50));
      if (absl::IsDeadlineExceeded(bytes.status())) {
        Report();
        continue;
      }
      if (!bytes.ok()) return 85;
      const auto order = DecodeOrder(*bytes);
      if (!order.ok()) return 78;
      if (order->setup) mode_ = order->setup->faults;
      if (order->orphaned && mode_ != "ignore") return 76;
      if (order->desired) Obey(*order->desired);
      if (exit_ >= 0) return exit_;
      Report();
    }
  }

 private:
  void Obey(const DesiredState& desired) {
    const bool first = observed_.stage != desired.stage;
    observed_.stage = desired.stage;
    observed_.generation = desired.generation;
    if (desired.stage == Stage::kExit && mode_ != "ignore") exit_ = 0;
    if (desired.stage == Stage::kGo && first) Misbehave();
  }

  void Misbehave() {
    if (mode_ == "crash") std::abort();
    if (absl::StartsWith(mode_, "exit=")) (void)absl::SimpleAtoi(mode_.substr(5), &exit_);
    if (mode_ == "garbage") {
      const std::string noise(64, '\xff');
      (void)!write(channel_.fd(), noise.data(), noise.size());
    }
    if (mode_ == "close") channel_.Shutdown();
    if (mode_ == "child" && fork() == 0) {
      for (;;) pause();
    }
    if (mode_ == "talk") {
      for (int i = 0; i < 2000; ++i) std::printf("line %d of many\n", i);
      std::printf("bytes \xff\xfe that are no text\n");
      std::printf("the last words");
      std::fflush(stdout);
      exit_ = 7;
    }
  }

  void Report() {
    TrainerReport report;
    if (observed_.stage == Stage::kGo) {
      report.records.emplace_back();
      report.records.back().record = StepRecord{.step = ++observed_.step, .step_seconds = 0.01};
    }
    report.observed = observed_;
    report.metrics = TrainerMetrics{.images_total = 64 * observed_.step,
                                    .collective_bytes_total = {{"gloo_ring", 1024}}};
    (void)channel_.Send(EncodeReport(report), absl::Seconds(1));
  }

  Channel channel_;
  std::string mode_;
  ObservedState observed_{.stage = Stage::kIdle};
  int exit_ = -1;
};

}  // namespace
}  // namespace vitscale::link

int main(int argc, char** argv) {
  using namespace vitscale::link;
  BlockOrdersBySignal();
  const auto parent = PeerPid(kTrainerLinkFd);
  if (!parent.ok() || !ArmParentDeath(*parent).ok()) return 85;
  if (argc < 2 || std::string(argv[1]) != "--link-fd=3") return 78;
  PrintDescriptors();
  std::fprintf(stderr, "process %d\n", getpid());
  return FakeTrainer(kTrainerLinkFd).Run();
}
