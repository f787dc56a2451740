#include "worker/link/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/status.h"

namespace vitscale::link {
namespace {

constexpr int kVarintBytesMax = 5;
constexpr int kSocketBufferBytes = 1 << 20;

// Milliseconds for poll, rounded up; -1: for ever.
int PollMillis(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return -1;
  const absl::Duration left = std::max(absl::ZeroDuration(), deadline - RealClock().Monotonic());
  return static_cast<int>(
      std::min<int64_t>(absl::ToInt64Milliseconds(left + absl::Microseconds(999)), 1 << 30));
}

// Waits until `fd` is ready for `events` or hung up; false: the deadline passed.
absl::StatusOr<bool> WaitFor(int fd, short events, absl::Time deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, PollMillis(deadline));
    if (ready > 0) return true;
    if (ready == 0) {
      if (RealClock().Monotonic() >= deadline) return false;
    } else if (errno != EINTR) {
      return ErrnoStatus(errno, "poll the link");
    }
  }
}

}  // namespace

std::string EncodeFrame(absl::string_view message) {
  std::string frame;
  frame.reserve(message.size() + kVarintBytesMax);
  uint64_t rest = message.size();
  for (; rest >= 0x80; rest >>= 7) frame.push_back(static_cast<char>(rest | 0x80));
  frame.push_back(static_cast<char>(rest));
  frame.append(message.data(), message.size());
  return frame;
}

void FrameReader::Append(absl::string_view bytes) {
  if (!broken_.ok()) return;
  if (begin_ > 0 && begin_ >= buffer_.size() / 2) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  buffer_.append(bytes.data(), bytes.size());
}

absl::StatusOr<std::optional<std::string>> FrameReader::Next() {
  if (!broken_.ok()) return broken_;
  uint64_t length = 0;
  size_t at = begin_;
  for (int i = 0;; ++i) {
    if (i == kVarintBytesMax) {
      return broken_ = absl::DataLossError("link: frame length longer than five bytes");
    }
    if (at == buffer_.size()) return std::nullopt;
    const uint8_t byte = static_cast<uint8_t>(buffer_[at++]);
    length |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) break;
  }
  if (length > kFrameBytesMax) {
    return broken_ = absl::DataLossError(
               absl::StrCat("link: frame of ", length, " bytes, at most ", kFrameBytesMax));
  }
  if (buffer_.size() - at < length) return std::nullopt;
  std::string message = buffer_.substr(at, length);
  begin_ = at + length;
  return message;
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeSocketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return ErrnoStatus(errno, "create socket pair");
  }
  std::pair<UniqueFd, UniqueFd> pair{UniqueFd(fds[0]), UniqueFd(fds[1])};
  // Best effort: the kernel caps it at net.core.wmem_max; a smaller buffer only makes a sender wait
  // earlier.
  for (int fd : fds) {
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBufferBytes, sizeof(kSocketBufferBytes));
  }
  return pair;
}

Channel::Channel(UniqueFd fd) : fd_(std::move(fd)) {}

absl::Status Channel::Send(absl::string_view message, absl::Duration timeout) {
  if (message.size() > kFrameBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("link: message of ", message.size(), " bytes, at most ", kFrameBytesMax));
  }
  const std::string frame = EncodeFrame(message);
  absl::MutexLock lock(&send_mutex_);
  if (send_broken_.ok()) send_broken_ = WriteAll(frame, timeout);
  return send_broken_;
}

absl::Status Channel::WriteAll(absl::string_view bytes, absl::Duration timeout) {
  const absl::Time deadline = RealClock().Monotonic() + timeout;
  while (!bytes.empty()) {
    const ssize_t written =
        send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
      return absl::UnavailableError(ErrnoStatus(errno, "send on the link").message());
    }
    VITSCALE_ASSIGN_OR_RETURN(const bool ready, WaitFor(fd_.get(), POLLOUT, deadline));
    if (!ready) {
      return absl::UnavailableError(
          absl::StrCat("link: peer took nothing for ", absl::FormatDuration(timeout)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Channel::Receive(absl::Duration timeout) {
  const absl::Time deadline = RealClock().Monotonic() + timeout;
  std::string chunk(64 << 10, '\0');
  for (;;) {
    VITSCALE_ASSIGN_OR_RETURN(std::optional<std::string> message, reader_.Next());
    if (message) return *std::move(message);
    VITSCALE_ASSIGN_OR_RETURN(const bool ready, WaitFor(fd_.get(), POLLIN, deadline));
    if (!ready) return absl::DeadlineExceededError("link: no message");
    const ssize_t got = recv(fd_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
    if (got > 0) {
      reader_.Append({chunk.data(), static_cast<size_t>(got)});
    } else if (got == 0) {
      if (reader_.AtBoundary()) return absl::OutOfRangeError("link: end of stream");
      return absl::DataLossError("link: stream ends inside a frame");
    } else if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) {
      return absl::UnavailableError(ErrnoStatus(errno, "receive on the link").message());
    }
  }
}

void Channel::Shutdown() { (void)shutdown(fd_.get(), SHUT_RDWR); }

}  // namespace vitscale::link
