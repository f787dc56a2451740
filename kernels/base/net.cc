#include "kernels/base/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/clock.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::Time DeadlineAfter(absl::Duration timeout) { return RealClock().Monotonic() + timeout; }

// Waits until one of `events` (or an error) is there.
absl::Status WaitFor(int fd, short events, absl::Time deadline) {
  while (true) {
    int milliseconds = -1;
    if (deadline != absl::InfiniteFuture()) {
      const absl::Duration left = deadline - RealClock().Monotonic();
      const double wanted = std::ceil(absl::ToDoubleMilliseconds(left));
      milliseconds = static_cast<int>(std::clamp(wanted, 0.0, 1e9));
    }
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, milliseconds);
    if (ready > 0) return absl::OkStatus();
    if (ready == 0) return absl::DeadlineExceededError("timed out");
    if (errno != EINTR) return ErrnoStatus(errno, "poll");
  }
}

absl::StatusOr<AddressList> LookUp(const HostPort& address, bool to_listen) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("look up host '", address.host, "': ", gai_strerror(error)));
  }
  return AddressList(found, &freeaddrinfo);
}

absl::Status ListenOn(int fd, const sockaddr* address, socklen_t length, int backlog,
                      const std::string& name) {
  if (bind(fd, address, length) != 0 || listen(fd, backlog) != 0) {
    return ErrnoStatus(errno, absl::StrCat("listen on ", name));
  }
  return absl::OkStatus();
}

absl::Status ConnectTo(int fd, const sockaddr* address, socklen_t length, absl::Time deadline,
                       const std::string& name) {
  const std::string what = absl::StrCat("connect to ", name);
  if (connect(fd, address, length) != 0) {
    if (errno != EINPROGRESS && errno != EINTR) return ErrnoStatus(errno, what);
    VITSCALE_RETURN_IF_ERROR(Annotate(WaitFor(fd, POLLOUT, deadline), what));
    int error = 0;
    socklen_t error_length = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_length) != 0) error = errno;
    if (error != 0) return ErrnoStatus(error, what);
  }
  return absl::OkStatus();
}

void SetNoDelay(int fd) {
  const int one = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
                   sizeof(one));  // fails on Unix sockets: no matter
}

void SetBlocking(int fd) { (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); }

absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("Unix socket path '", path, "' has ",
                                                   path.size(), " bytes, want 1 to ",
                                                   sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket(int family, int flags) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "make socket");
  return fd;
}

}  // namespace

std::string HostPort::ToString() const {
  return absl::StrContains(host, ":") ? absl::StrCat("[", host, "]:", port)
                                      : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const auto fault = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("address '", text, "': ", why, ", want host:port"));
  };
  HostPort result;
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return fault("has no port");
  absl::string_view host = text.substr(0, colon);
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ":")) {
    return fault("an IPv6 address needs brackets");
  }
  if (host.empty()) return fault("has no host");
  const absl::string_view port = text.substr(colon + 1);
  const bool digits = !port.empty() && std::all_of(port.begin(), port.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(port, &result.port) || result.port > 65535) {
    return fault(absl::StrCat("port '", port, "' is not a number from 0 to 65535"));
  }
  result.host = std::string(host);
  return result;
}

bool IsLoopback(absl::string_view host) {
  const std::string name(host);
  in_addr v4{};
  if (inet_pton(AF_INET, name.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  if (inet_pton(AF_INET6, name.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return absl::EqualsIgnoreCase(name, "localhost");
}

std::string Address::ToString() const {
  return is_unix() ? absl::StrCat("unix:", unix_path) : tcp.ToString();
}

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  Address result;
  if (absl::ConsumePrefix(&text, "unix:")) {
    absl::ConsumePrefix(&text, "//");  // unix:///path, as gRPC writes it
    if (!absl::StartsWith(text, "/")) {
      return absl::InvalidArgumentError(
          absl::StrCat("address 'unix:", text, "': want an absolute path after \"unix:\""));
    }
    result.unix_path = std::string(text);
    return result;
  }
  VITSCALE_ASSIGN_OR_RETURN(result.tcp, ParseHostPort(text));
  return result;
}

absl::StatusOr<UniqueFd> ListenTcp(const HostPort& address, int backlog) {
  VITSCALE_ASSIGN_OR_RETURN(const AddressList list, LookUp(address, true));
  absl::Status last = absl::InternalError("no address");
  for (const addrinfo* at = list.get(); at != nullptr; at = at->ai_next) {
    VITSCALE_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(at->ai_family, 0));
    const int one = 1;
    (void)setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    last = ListenOn(fd.get(), at->ai_addr, at->ai_addrlen, backlog, address.ToString());
    if (last.ok()) return fd;
  }
  return last;
}

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int mode, int backlog) {
  VITSCALE_ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress(path));
  VITSCALE_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(AF_UNIX, 0));
  // Linux gives the file the mode of the socket's inode less the umask: never wider than asked, at
  // no moment.
  if (fchmod(fd.get(), mode) != 0) return ErrnoStatus(errno, absl::StrCat("chmod '", path, "'"));
  VITSCALE_RETURN_IF_ERROR(ListenOn(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                                    sizeof(address), backlog, absl::StrCat("unix:", path)));
  if (chmod(path.c_str(), mode) != 0) return ErrnoStatus(errno, absl::StrCat("chmod '", path, "'"));
  return fd;
}

absl::StatusOr<int> LocalPort(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(errno, "port of a socket");
  }
  if (address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  }
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return absl::InvalidArgumentError("port of a socket: not a TCP socket");
}

absl::StatusOr<UniqueFd> ConnectTcp(const HostPort& address, absl::Duration timeout) {
  const absl::Time deadline = DeadlineAfter(timeout);
  VITSCALE_ASSIGN_OR_RETURN(const AddressList list, LookUp(address, false));
  absl::Status last = absl::InternalError("no address");
  for (const addrinfo* at = list.get(); at != nullptr; at = at->ai_next) {
    VITSCALE_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(at->ai_family, SOCK_NONBLOCK));
    last = ConnectTo(fd.get(), at->ai_addr, at->ai_addrlen, deadline, address.ToString());
    if (!last.ok()) continue;
    SetBlocking(fd.get());
    SetNoDelay(fd.get());
    return fd;
  }
  return last;
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path, absl::Duration timeout) {
  VITSCALE_ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress(path));
  VITSCALE_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(AF_UNIX, SOCK_NONBLOCK));
  const absl::Status connected =
      ConnectTo(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address),
                DeadlineAfter(timeout), absl::StrCat("unix:", path));
  if (absl::IsNotFound(connected)) {  // no such socket file: nobody listens, as with a refused port
    return absl::UnavailableError(connected.message());
  }
  VITSCALE_RETURN_IF_ERROR(connected);
  SetBlocking(fd.get());
  return fd;
}

absl::StatusOr<UniqueFd> Connect(const Address& address, absl::Duration timeout) {
  return address.is_unix() ? ConnectUnix(address.unix_path, timeout)
                           : ConnectTcp(address.tcp, timeout);
}

absl::StatusOr<UniqueFd> Accept(int listener, absl::Duration timeout) {
  const absl::Time deadline = DeadlineAfter(timeout);
  while (true) {
    VITSCALE_RETURN_IF_ERROR(Annotate(WaitFor(listener, POLLIN, deadline), "accept"));
    UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (fd.valid()) {
      SetNoDelay(fd.get());
      return fd;
    }
    if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) {
      return ErrnoStatus(errno, "accept");
    }
  }
}

absl::Status ReadAll(int fd, absl::Span<char> bytes, absl::Duration timeout) {
  const absl::Time deadline = DeadlineAfter(timeout);
  while (!bytes.empty()) {
    const ssize_t got = recv(fd, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got > 0) {
      bytes.remove_prefix(got);
    } else if (got == 0) {
      return absl::UnavailableError("peer closed the connection");
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      VITSCALE_RETURN_IF_ERROR(Annotate(WaitFor(fd, POLLIN, deadline), "receive"));
    } else if (errno != EINTR) {
      return ErrnoStatus(errno, "receive");
    }
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, absl::string_view bytes, absl::Duration timeout) {
  const absl::Time deadline = DeadlineAfter(timeout);
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      VITSCALE_RETURN_IF_ERROR(Annotate(WaitFor(fd, POLLOUT, deadline), "send"));
    } else if (errno != EINTR) {
      return ErrnoStatus(errno, "send");
    }
  }
  return absl::OkStatus();
}

}  // namespace vitscale
