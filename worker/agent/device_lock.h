// One agent per device, and no agent before the last process of its predecessor is gone.
//
// The lock is an flock on <directory>/<device>.lock. The agent opens it, its trainers inherit the
// open file, and the kernel releases it when the last of them has ended, however it ended. The file
// holds the owner's process id, for people.

#ifndef WORKER_AGENT_DEVICE_LOCK_H_
#define WORKER_AGENT_DEVICE_LOCK_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/unique_fd.h"

namespace vitscale::agent {

// Waits up to `wait` for the lock, or until `stop_fd` (-1: none) becomes readable. The directory is
// made if missing. Errors: UNAVAILABLE naming the owner after `wait`; CANCELLED by stop_fd; those
// of the file system.
absl::StatusOr<UniqueFd> TakeDeviceLock(const std::string& directory, const std::string& device,
                                        absl::Duration wait, int stop_fd);

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_DEVICE_LOCK_H_
