#include "worker/agent/device_lock.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/files.h"
#include "kernels/base/log.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"

namespace vitscale::agent {
namespace {

constexpr int kRetryMillis = 100;

// What the owner wrote: its process id.
std::string OwnerOf(const std::string& path) {
  const auto text = PosixFileSystem().ReadFile(path, 64);
  if (!text.ok() || text->empty()) return "another process";
  return absl::StrCat("process ", absl::StripAsciiWhitespace(*text), " or a trainer of it");
}

absl::Status WriteOwner(int fd, const std::string& path) {
  const std::string text = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 || pwrite(fd, text.data(), text.size(), 0) < 0) {
    return ErrnoStatus(errno, absl::StrCat("write '", path, "'"));
  }
  return absl::OkStatus();
}

// True when `stop_fd` is readable; else waits a little.
bool StoppedWhileWaiting(int stop_fd) {
  pollfd entry{stop_fd, POLLIN, 0};  // poll ignores a negative descriptor
  return poll(&entry, 1, kRetryMillis) > 0;
}

}  // namespace

absl::StatusOr<UniqueFd> TakeDeviceLock(const std::string& directory, const std::string& device,
                                        absl::Duration wait, int stop_fd) {
  VITSCALE_RETURN_IF_ERROR(PosixFileSystem().MakeDirectories(directory));
  const std::string path = JoinPath(directory, device + ".lock");
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  const absl::Time deadline = RealClock().Monotonic() + wait;
  for (bool told = false; flock(fd.get(), LOCK_EX | LOCK_NB) != 0; told = true) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      return ErrnoStatus(errno, absl::StrCat("lock '", path, "'"));
    }
    if (RealClock().Monotonic() >= deadline) {
      return absl::UnavailableError(absl::StrCat("device ", device, " is held by ", OwnerOf(path),
                                                 " (lock '", path, "'), waited ",
                                                 absl::FormatDuration(wait)));
    }
    if (!told)
      VITSCALE_LOG(INFO) << "device " << device << " is held by " << OwnerOf(path) << "; waiting";
    if (StoppedWhileWaiting(stop_fd)) return absl::CancelledError("asked to stop");
  }
  VITSCALE_RETURN_IF_ERROR(WriteOwner(fd.get(), path));
  return fd;
}

}  // namespace vitscale::agent
