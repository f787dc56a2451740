// Owners of device memory and of host memory that the device copies from and to without a detour.

#ifndef KERNELS_CUDA_RUNTIME_MEMORY_H_
#define KERNELS_CUDA_RUNTIME_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale::cuda {

class DeviceMemory {
 public:
  DeviceMemory() = default;
  // `bytes` of device memory, a multiple of 256 in address, not initialised; 0 gives none.
  // RESOURCE_EXHAUSTED: "activations: want 52.1 GiB (…), 3.2 GiB are free".
  static absl::StatusOr<DeviceMemory> Allocate(int64_t bytes, absl::string_view what);

  std::byte* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { (void)cudaFree(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t bytes_ = 0;
};

class PinnedMemory {
 public:
  PinnedMemory() = default;
  static absl::StatusOr<PinnedMemory> Allocate(int64_t bytes, absl::string_view what);

  std::byte* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { (void)cudaFreeHost(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_RUNTIME_MEMORY_H_
