// vitscale-trainer: the child of an agent. One job, one attempt; orders come over the inherited
// socket.
//
// Order of main: signals first, then parent death, then the watchdog of the link, and only then
// anything that could take time or start a thread.

#include <stdio.h>
#include <unistd.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "kernels/base/log.h"
#include "kernels/base/unique_fd.h"
#include "kernels/base/version.h"
#include "worker/link/child_guard.h"
#include "worker/link/messages.h"
#include "worker/trainer/device_name.h"
#include "worker/trainer/shell.h"
#include "worker/trainer/socket_link.h"

namespace {

using vitscale::link::TrainerExit;

constexpr int kUsage = 2;

int ParseLinkFd(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    int fd = -1;
    if (absl::ConsumePrefix(&argument, "--link-fd=") && absl::SimpleAtoi(argument, &fd) && fd >= 0)
      return fd;
  }
  return -1;
}

// Help and version go to standard output; anything else is a wrong command line.
int Explain(absl::string_view argument) {
  const bool asked = argument == "--help" || argument == "-h" || argument == "--version";
  fprintf(
      asked ? stdout : stderr,
      "vitscale-trainer %s: started by vitscale-worker only (--link-fd=N); to train by hand use "
      "vitscale-train\n",
      vitscale::VersionText().c_str());
  return asked ? 0 : kUsage;
}

int Fail(const absl::Status& status) {
  VITSCALE_LOG(ERROR) << status.message();
  return static_cast<int>(TrainerExit::kFenced);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace vitscale;
  link::BlockOrdersBySignal();
  SetLogName("vitscale-trainer");
  CountCardsByBus();
  const int fd = ParseLinkFd(argc, argv);
  if (fd < 0) return Explain(argc > 1 ? argv[1] : "");
  const auto parent = link::PeerPid(fd);
  if (!parent.ok()) return Fail(parent.status());
  if (const absl::Status armed = link::ArmParentDeath(*parent); !armed.ok()) return Fail(armed);
  link::WatchLink(fd);

  ShellOptions options;
  TrainerShell* shell = nullptr;  // orders wait in the socket until it is there
  absl::Mutex ready;
  ready.Lock();
  SocketLink link(
      UniqueFd(fd),
      [&](link::TrainerOrder order) {
        absl::MutexLock lock(&ready);
        shell->Post(OrderEvent{std::move(order)});
      },
      [](const absl::Status& end) {
        VITSCALE_LOG(ERROR) << "link to the agent: " << end.message();
        _exit(static_cast<int>(TrainerExit::kFenced));
      });
  options.sink = &link;
  TrainerShell the_shell(options);
  shell = &the_shell;
  ready.Unlock();
  const int code = the_shell.Run();
  fflush(nullptr);
  _exit(code);  // other threads may be in the middle of something; nothing of theirs is worth
                // waiting for
}
