// vitscaled: the coordinator daemon.
//
// Exit codes: 0 stopped in order; 1 could not start or serve; 2 usage; 78 bad configuration
// (starting again would not help).

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/version.h"
#include "server/vitscaled/daemon.h"
#include "server/vitscaled/flags.h"
#include "kernels/base/systemd.h"

namespace vitscale {
namespace {

constexpr int kExitConfiguration = 78;

// Every agent and every watch is a descriptor.
void RaiseDescriptorLimit() {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

// Blocked in every thread that comes later; read from the descriptor.
int BlockSignals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return signalfd(-1, &set, SFD_CLOEXEC);
}

// True when a stop was asked for; false after `timeout`.
bool WaitForStop(int signals, absl::Duration timeout) {
  pollfd fd = {signals, POLLIN, 0};
  const int milliseconds = timeout == absl::InfiniteDuration()
                               ? -1
                               : static_cast<int>(absl::ToInt64Milliseconds(timeout));
  if (poll(&fd, 1, milliseconds) <= 0) return false;
  signalfd_siginfo info = {};
  if (read(signals, &info, sizeof(info)) != sizeof(info)) return false;
  return info.ssi_signo != SIGHUP;  // nothing to read again
}

int Fail(const absl::Status& status) {
  std::cerr << "vitscaled: " << status.message() << "\n";
  const bool configuration = status.code() == absl::StatusCode::kInvalidArgument ||
                             status.code() == absl::StatusCode::kNotFound ||
                             status.code() == absl::StatusCode::kPermissionDenied;
  return configuration ? kExitConfiguration : EXIT_FAILURE;
}

int Main(int argc, char** argv) {
  const int signals = BlockSignals();
  RaiseDescriptorLimit();
  setenv("GRPC_VERBOSITY", "NONE", 0);  // what matters comes back as a status
  SetLogName("vitscaled");
  ServerFlagsExit done;
  const auto flags = ParseServerFlags(argc, argv, done);
  if (!flags.ok()) {
    std::cerr << "vitscaled: " << flags.status().message() << "\n";
    return kExitConfiguration;
  }
  if (done.exit) {
    (done.code == 0 ? std::cout : std::cerr) << done.text;
    return done.code;
  }
  auto daemon = Daemon::Start(*flags);
  if (!daemon.ok()) return Fail(daemon.status());
  VITSCALE_LOG(INFO) << "vitscaled " << VersionText() << " serves gRPC on "
                     << (*daemon)->address().ToString() << " and unix:" << flags->socket
                     << ", metrics on " << (*daemon)->metrics_address().ToString() << ", state in "
                     << flags->state_dir << ", term " << (*daemon)->coordinator().term();
  NotifySystemd(absl::StrCat("READY=1\nSTATUS=serves on ", (*daemon)->address().ToString()));
  while (!WaitForStop(signals, SystemdWatchdogInterval())) NotifySystemd("WATCHDOG=1");
  VITSCALE_LOG(INFO) << "stops";
  NotifySystemd("STOPPING=1");
  // A second signal kills: its default action is back.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  (*daemon)->Stop(flags->stop_grace);
  // Everything is on the disk; civetweb would take seconds to end its threads.
  std::cout.flush();
  std::_Exit(EXIT_SUCCESS);
}

}  // namespace
}  // namespace vitscale

int main(int argc, char** argv) { return vitscale::Main(argc, argv); }
