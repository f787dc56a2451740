#include "server/store/state_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"

namespace vitscale {

absl::StatusOr<StateDirectory> StateDirectory::Open(const std::string& path) {
  const std::string directory(absl::StripSuffix(path, "/"));
  VITSCALE_RETURN_IF_ERROR(PosixFileSystem().MakeDirectories(directory));
  if (chmod(directory.c_str(), 0700) != 0)
    return ErrnoStatus(errno, absl::StrCat("chmod '", directory, "'"));
  const std::string lock_path = directory + "/lock";
  UniqueFd lock(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return ErrnoStatus(errno, absl::StrCat("open '", lock_path, "'"));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, absl::StrCat("lock '", lock_path, "'"));
    char holder[32] = {};
    const ssize_t n = pread(lock.get(), holder, sizeof(holder) - 1, 0);
    return absl::FailedPreconditionError(
        absl::StrCat("another coordinator", n > 0 ? absl::StrCat(" (process ", holder, ")") : "",
                     " uses the state directory '", directory, "'"));
  }
  const std::string self = absl::StrCat(getpid());
  if (ftruncate(lock.get(), 0) != 0 || pwrite(lock.get(), self.data(), self.size(), 0) < 0) {
    return ErrnoStatus(errno, absl::StrCat("write '", lock_path, "'"));
  }
  return StateDirectory(directory, std::move(lock));
}

}  // namespace vitscale
