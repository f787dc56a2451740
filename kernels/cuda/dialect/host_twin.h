// What the dialect is made of where the host compiler builds it. Declared here, implemented by
// tests/cuda_on_cpu, which runs every thread of a block as a fiber. Nothing in a product links it.

#ifndef KERNELS_CUDA_DIALECT_HOST_TWIN_H_
#define KERNELS_CUDA_DIALECT_HOST_TWIN_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/bf16.h"

#undef __global__
#define __global__
#undef __device__
#define __device__
#undef __launch_bounds__
#define __launch_bounds__(...)
#define threadIdx (::vitscale::cuda::host_twin::Place().thread)
#define blockIdx (::vitscale::cuda::host_twin::Place().block)
#define blockDim (::vitscale::cuda::host_twin::Place().block_dim)
#define gridDim (::vitscale::cuda::host_twin::Place().grid_dim)

namespace vitscale::cuda::host_twin {

using vitscale::FromBf16;
using vitscale::ToBf16;

// Where the fiber that runs now stands.
struct PlaceInGrid {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
const PlaceInGrid& Place();

// An argument of a kernel that is a pointer, or a word inside of a struct that may be one.
struct KernelArgument {
  const void* pointer;
  bool writes;
  bool typed;  // surely a pointer
};
template <typename T>
void AddArgument(const T& value, std::vector<KernelArgument>& arguments) {
  if constexpr (std::is_pointer_v<T>) {
    arguments.push_back({value, !std::is_const_v<std::remove_pointer_t<T>>, true});
  } else {
    for (size_t at = 0; at + sizeof(void*) <= sizeof(T); at += sizeof(void*)) {
      const void* word = nullptr;
      std::memcpy(&word, reinterpret_cast<const char*>(&value) + at, sizeof(word));
      arguments.push_back({word, true, false});
    }
  }
}

absl::Status Launch(std::function<void()> body, const void* kernel,
                    std::vector<KernelArgument> arguments, dim3 grid, dim3 block,
                    size_t shared_bytes, cudaStream_t stream);

// Places (file and line of the kernel) are taken from the caller's return address by the
// implementation.
void BlockBarrier();
void WarpBarrier();
void* SharedMemory(size_t bytes);
[[noreturn]] void BadIndex(int i, int count, int size);
inline void CheckIndex(int i, int count, int size) {
  if (i < 0 || i > size - count) [[unlikely]] {
    BadIndex(i, count, size);
  }
}
[[noreturn]] void BadAlignment(const void* at, size_t alignment);
inline void CheckAligned(const void* at, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(at) % alignment != 0) [[unlikely]] {
    BadAlignment(at, alignment);
  }
}
void ReadShared(void* to, const void* shared, size_t bytes, size_t alignment);
void WriteShared(void* shared, const void* from, size_t bytes, size_t alignment);
// Every lane gives 8 bytes and gets those of `lane`.
uint64_t ExchangeWarp(uint64_t mine, int lane);
void MmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void LoadMatrix(uint32_t* r, int matrices, bool transposed, const void* row);
void CopyAsync(void* to, const void* from, bool valid);
void CopyCommit();
void CopyWait(int pending);

template <typename T>
T Shuffle(T value, int lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = ExchangeWarp(bits, lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// An element of shared memory that knows when it is read and when it is written.
template <typename T>
class SharedElement {
 public:
  SharedElement(T* at) : at_(at) {}  // NOLINT
  operator T() const {               // NOLINT
    T value;
    ReadShared(&value, at_, sizeof(T), sizeof(T));
    return value;
  }
  const SharedElement& operator=(T value) const {
    WriteShared(at_, &value, sizeof(T), sizeof(T));
    return *this;
  }
  const SharedElement& operator=(const SharedElement& other) const {
    return *this = static_cast<T>(other);
  }
  const SharedElement& operator+=(T value) const { return *this = static_cast<T>(*this) + value; }

 private:
  T* at_;
};

}  // namespace vitscale::cuda::host_twin

#endif  // KERNELS_CUDA_DIALECT_HOST_TWIN_H_
