// Zero-filled memory of fixed size, on a page boundary, straight from the system: arenas and
// workspaces.

#ifndef KERNELS_CPU_MEMORY_H_
#define KERNELS_CPU_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale::cpu {

class Memory {
 public:
  // RESOURCE_EXHAUSTED: "activations: 96636764160 bytes: Cannot allocate memory". 0 bytes give an
  // empty one.
  static absl::StatusOr<Memory> Allocate(int64_t bytes, absl::string_view what);

  Memory() = default;
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  Memory(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_MEMORY_H_
