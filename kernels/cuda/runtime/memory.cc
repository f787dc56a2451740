#include "kernels/cuda/runtime/memory.h"

#include "absl/strings/str_format.h"
#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"

namespace vitscale::cuda {
namespace {

std::string Gibibytes(double bytes) { return absl::StrFormat("%.2f GiB", bytes / (1 << 30)); }

absl::Status NoDeviceMemory(int64_t bytes, absl::string_view what) {
  size_t free = 0, total = 0;
  (void)cudaGetLastError();  // the failed allocation is told here and nowhere else
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) free = total = 0;
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": want ", bytes, " bytes (", Gibibytes(static_cast<double>(bytes)),
                   ") of device memory, ", Gibibytes(static_cast<double>(free)), " of ",
                   Gibibytes(static_cast<double>(total)), " are free"));
}

}  // namespace

absl::StatusOr<DeviceMemory> DeviceMemory::Allocate(int64_t bytes, absl::string_view what) {
  DeviceMemory memory;
  if (bytes == 0) return memory;
  void* raw = nullptr;
  const cudaError_t error = cudaMalloc(&raw, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) return NoDeviceMemory(bytes, what);
  VITSCALE_RETURN_IF_ERROR(CudaStatus(error, what));
  memory.memory_.reset(static_cast<std::byte*>(raw));
  memory.bytes_ = bytes;
  return memory;
}

absl::StatusOr<PinnedMemory> PinnedMemory::Allocate(int64_t bytes, absl::string_view what) {
  PinnedMemory memory;
  if (bytes == 0) return memory;
  void* raw = nullptr;
  VITSCALE_RETURN_IF_ERROR(
      CudaStatus(cudaHostAlloc(&raw, static_cast<size_t>(bytes), cudaHostAllocDefault),
                 absl::StrCat(what, ": ", bytes, " bytes of pinned host memory")));
  memory.memory_.reset(static_cast<std::byte*>(raw));
  memory.bytes_ = bytes;
  return memory;
}

}  // namespace vitscale::cuda
