// The coordinator's state directory: mode 0700, one coordinator at a time.

#ifndef SERVER_STORE_STATE_DIRECTORY_H_
#define SERVER_STORE_STATE_DIRECTORY_H_

#include <string>

#include "absl/status/statusor.h"
#include "kernels/base/unique_fd.h"

namespace vitscale {

class StateDirectory {
 public:
  // Makes the directory and takes its lock. FAILED_PRECONDITION "another coordinator (process 12)
  // uses the state directory '…'" if it is taken. The lock goes with this object, and with the
  // process.
  static absl::StatusOr<StateDirectory> Open(const std::string& path);

  const std::string& path() const { return path_; }
  std::string control_path() const { return path_ + "/control.db"; }
  std::string steps_path() const { return path_ + "/steps.db"; }

 private:
  StateDirectory(std::string path, UniqueFd lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string path_;
  UniqueFd lock_;
};

}  // namespace vitscale

#endif  // SERVER_STORE_STATE_DIRECTORY_H_
