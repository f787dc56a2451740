// What the dialect is made of where the host compiler builds it. Declared here, implemented by
// tests/cuda_on_cpu, which runs every thread of a block as a fiber. Nothing in a product links it.

#ifndef KERNELS_CUDA_DIALECT_HOST_TWIN_H_
#define KERNELS_CUDA_DIALECT_HOST_TWIN_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

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

absl::Status Launch(std::function<void()> body, const void* kernel, dim3 grid, dim3 block,
                    size_t shared_bytes, cudaStream_t stream);

// Places (file and line of the kernel) are taken from the caller's return address by the
// implementation.
void BlockBarrier();
void* SharedMemory(size_t bytes);
void CheckIndex(int i, int count, int size);
void CheckAligned(const void* at, size_t alignment);
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
