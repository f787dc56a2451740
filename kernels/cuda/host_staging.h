// Copies between pageable host memory and the device, in the order of a stream, through two pinned
// buffers: while one is on its way the host fills or empties the other.

#ifndef KERNELS_CUDA_HOST_STAGING_H_
#define KERNELS_CUDA_HOST_STAGING_H_

#include <array>
#include <cstddef>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stream.h"

namespace vitscale::cuda {

class HostStaging {
 public:
  static absl::StatusOr<HostStaging> Create();

  // `from` may be changed when this returns; the device has the bytes before anything that enters
  // the stream later.
  absl::Status Write(std::byte* to, absl::Span<const std::byte> from, const CudaStream& stream);
  // After everything in the stream.
  absl::Status Read(const std::byte* from, absl::Span<std::byte> to, const CudaStream& stream);

 private:
  struct Slot {
    std::optional<CudaEvent> free;  // recorded behind the last copy
    std::byte* memory = nullptr;
  };
  HostStaging() = default;
  Slot& Next() { return slots_[turn_++ % slots_.size()]; }

  PinnedMemory memory_;
  std::array<Slot, 2> slots_;
  size_t turn_ = 0;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_HOST_STAGING_H_
