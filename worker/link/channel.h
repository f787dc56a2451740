// Framed messages over a byte stream (the socket pair between agent and trainer): varint length,
// then the bytes.
//
// A frame is at most kFrameBytesMax; a greater length, or a length of more than five bytes, is
// DATA_LOSS and ends the stream, since what follows cannot be trusted. An orderly end between
// frames is OUT_OF_RANGE ("end of stream"), an end inside one is DATA_LOSS.

#ifndef WORKER_LINK_CHANNEL_H_
#define WORKER_LINK_CHANNEL_H_

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/base/unique_fd.h"

namespace vitscale::link {

inline constexpr size_t kFrameBytesMax = 16 << 20;

// File descriptors that a trainer inherits.
inline constexpr int kTrainerLinkFd = 3;
inline constexpr int kTrainerLockFd = 4;

// Length and bytes, ready to be written. `message` is at most kFrameBytesMax.
std::string EncodeFrame(absl::string_view message);

// Cuts a stream into frames. Not thread-safe; does no I/O.
class FrameReader {
 public:
  void Append(absl::string_view bytes);
  // The next whole frame; nullopt: more bytes are needed; DATA_LOSS: garbage, and every later call
  // says so.
  absl::StatusOr<std::optional<std::string>> Next();
  // No byte of an unfinished frame is held: the stream may end here.
  bool AtBoundary() const { return buffer_.size() == begin_; }

 private:
  std::string buffer_;
  size_t begin_ = 0;
  absl::Status broken_;
};

// A connected pair of stream sockets, close-on-exec, with room for about 1 MiB in each direction.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeSocketPair();

// Blocking end of a link. One thread receives; any thread sends.
class Channel {
 public:
  explicit Channel(UniqueFd fd);

  // Writes one whole frame. UNAVAILABLE: the peer is gone, or took nothing for `timeout`; the link
  // is dead then (a frame may be cut) and later calls say so. INVALID_ARGUMENT: greater than
  // kFrameBytesMax.
  absl::Status Send(absl::string_view message, absl::Duration timeout = absl::Seconds(30));

  // The next frame. DEADLINE_EXCEEDED: none within `timeout`, try again. OUT_OF_RANGE: the peer
  // closed the link. DATA_LOSS: garbage or a cut frame. UNAVAILABLE: the socket failed.
  absl::StatusOr<std::string> Receive(absl::Duration timeout = absl::InfiniteDuration());

  // Wakes a blocked Receive of this end and of the peer; later calls fail. Thread-safe.
  void Shutdown();

  int fd() const { return fd_.get(); }

 private:
  absl::Status WriteAll(absl::string_view bytes, absl::Duration timeout)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);

  const UniqueFd fd_;
  absl::Mutex send_mutex_;
  absl::Status send_broken_ ABSL_GUARDED_BY(send_mutex_);
  FrameReader reader_;  // of the receiving thread
};

}  // namespace vitscale::link

#endif  // WORKER_LINK_CHANNEL_H_
