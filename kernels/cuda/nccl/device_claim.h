// Keeps a device to one communicator of this process at a time.
//
// An abort frees device memory, which waits for everything that the device is doing: the sum of
// another communicator too, and that one may wait for a peer that is gone. So the communicators of
// a device must end together, as one group. One alone is that group, whatever other devices do.

#ifndef KERNELS_CUDA_NCCL_DEVICE_CLAIM_H_
#define KERNELS_CUDA_NCCL_DEVICE_CLAIM_H_

#include <utility>

#include "absl/status/statusor.h"

namespace vitscale::cuda {

class DeviceClaim {
 public:
  // FAILED_PRECONDITION: "cuda:0 has a communicator, want one at a time". Any thread.
  static absl::StatusOr<DeviceClaim> Take(int device);
  DeviceClaim(DeviceClaim&& other) noexcept : device_(std::exchange(other.device_, kNone)) {}
  DeviceClaim& operator=(DeviceClaim&& other) noexcept {
    std::swap(device_, other.device_);
    return *this;
  }
  ~DeviceClaim();

 private:
  static constexpr int kNone = -1;
  explicit DeviceClaim(int device) : device_(device) {}
  int device_;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_NCCL_DEVICE_CLAIM_H_
