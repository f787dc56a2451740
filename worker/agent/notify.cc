#include "worker/agent/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"
#include "kernels/base/unique_fd.h"

namespace vitscale::agent {

void NotifySystemd(absl::string_view message) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path == nullptr || path[0] == '\0' || std::strlen(path) >= sizeof(address.sun_path)) return;
  const size_t length = std::strlen(path);
  std::memcpy(address.sun_path, path, length);
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // the abstract namespace
  const UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  (void)sendto(fd.get(), message.data(), message.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address),
               static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
}

absl::Duration SystemdWatchdogInterval() {
  const char* text = std::getenv("WATCHDOG_USEC");
  int64_t micros = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &micros) || micros <= 0) {
    return absl::InfiniteDuration();
  }
  return absl::Microseconds(micros) / 2;
}

}  // namespace vitscale::agent
