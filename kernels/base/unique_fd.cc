#include "kernels/base/unique_fd.h"

#include <unistd.h>

namespace vitscale {

void UniqueFd::reset(int fd) {
  // After close() the number is free even if it reported EINTR or EIO (Linux): never tried again.
  if (fd_ >= 0) (void)close(fd_);
  fd_ = fd;
}

}  // namespace vitscale
