#include "kernels/cuda/nccl/device_claim.h"

#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace vitscale::cuda {
namespace {

struct Claimed {
  absl::Mutex mutex;
  std::set<int> devices ABSL_GUARDED_BY(mutex);
};
Claimed& Get() {
  static auto* claimed = new Claimed;
  return *claimed;
}

}  // namespace

absl::StatusOr<DeviceClaim> DeviceClaim::Take(int device) {
  absl::MutexLock lock(&Get().mutex);
  if (!Get().devices.insert(device).second) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuda:", device, " has a communicator, want one at a time"));
  }
  return DeviceClaim(device);
}

DeviceClaim::~DeviceClaim() {
  if (device_ == kNone) return;
  absl::MutexLock lock(&Get().mutex);
  Get().devices.erase(device_);
}

}  // namespace vitscale::cuda
