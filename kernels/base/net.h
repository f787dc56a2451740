// Sockets: addresses as users write them, listening, connecting and whole reads and writes with deadlines.
//
// Every descriptor is close-on-exec. TCP sockets have TCP_NODELAY set. SIGPIPE is avoided by MSG_NOSIGNAL. No
// function waits longer than its time-out (looking up a host name aside); infinite waits are asked for by absl::InfiniteDuration().

#ifndef KERNELS_BASE_NET_H_
#define KERNELS_BASE_NET_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/base/unique_fd.h"

namespace vitscale {

struct HostPort {
  std::string host;  // name, IPv4, or IPv6 without brackets
  int port = 0;      // 0 to 65535

  std::string ToString() const;  // "host:port", "[::1]:port"
};

// "host:port" or "[v6]:port". INVALID_ARGUMENT names the text and the fault.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

// True for 127.0.0.0/8, ::1 and "localhost"; false for every other name, resolved or not.
bool IsLoopback(absl::string_view host);

// An address of a daemon: "unix:/absolute/path" or "host:port".
struct Address {
  std::string unix_path;  // not empty: a Unix socket
  HostPort tcp;

  bool is_unix() const { return !unix_path.empty(); }
  std::string ToString() const;
};
absl::StatusOr<Address> ParseAddress(absl::string_view text);

// Bound and listening. Port 0 lets the kernel choose: see LocalPort. A port in use is ALREADY_EXISTS naming it.
absl::StatusOr<UniqueFd> ListenTcp(const HostPort& address, int backlog = 128);
// The path must not exist. Mode 0600 from the first moment on unless `mode` says otherwise.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int mode = 0600, int backlog = 128);
absl::StatusOr<int> LocalPort(int fd);

// UNAVAILABLE when refused or unreachable, DEADLINE_EXCEEDED after `timeout`; the address is named.
absl::StatusOr<UniqueFd> ConnectTcp(const HostPort& address, absl::Duration timeout);
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path, absl::Duration timeout);
absl::StatusOr<UniqueFd> Connect(const Address& address, absl::Duration timeout);

// The next connection of a listening socket. DEADLINE_EXCEEDED after `timeout`.
absl::StatusOr<UniqueFd> Accept(int listener, absl::Duration timeout);

// All bytes or an error. End of file before the last byte is UNAVAILABLE "peer closed the connection".
absl::Status ReadAll(int fd, absl::Span<char> bytes, absl::Duration timeout);
absl::Status WriteAll(int fd, absl::string_view bytes, absl::Duration timeout);

}  // namespace vitscale

#endif  // KERNELS_BASE_NET_H_
