// Which device this is and what it can do.

#ifndef KERNELS_CUDA_RUNTIME_DEVICE_H_
#define KERNELS_CUDA_RUNTIME_DEVICE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vitscale::cuda {

struct DeviceLimits {
  int sm = 0;  // 90 for sm_90
  int multiprocessors = 0;
  int64_t shared_bytes_per_block = 0;  // that a kernel may ask for
  int64_t l2_bytes = 0;
};

struct Device {
  int index = 0;
  std::string name;  // "NVIDIA H100 80GB HBM3"
  DeviceLimits limits;
};

// The index of "cuda:<index>"; INVALID_ARGUMENT for anything else.
absl::StatusOr<int> ParseDeviceIndex(const std::string& device);

// FAILED_PRECONDITION in one line: no driver, a driver too old for this runtime, no device of that
// index, or one below sm_80; or another card than that of environment VITSCALE_CARD_UUID, if an
// agent has set it for its trainers: CUDA leaves out cards that NVML counts (lost ones, parts of
// divided ones), and a job must not end up on a neighbour's.
absl::StatusOr<Device> FindDevice(int index);

// Calls of this thread go to that device from here on.
absl::Status UseDevice(const Device& device);

// Bytes of the device's memory that are not free, whoever has them; 0 if it cannot be told.
int64_t MemoryInUse(const Device& device);

// Of the kernel module, "580.159.04"; where that is not told (a container, a stand-in) the newest
// CUDA that the driver knows, "13000".
std::string DriverVersion();

// "CUDA 13.0"
std::string RuntimeVersion();

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_RUNTIME_DEVICE_H_
