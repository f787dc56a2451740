#include "kernels/cuda/runtime/device.h"

#include <cuda_runtime_api.h>

#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"

namespace vitscale::cuda {
namespace {

constexpr int kSmLeast = 80;  // bf16 tensor cores and asynchronous copies

std::string Version(int number) { return absl::StrCat(number / 1000, ".", number % 1000 / 10); }

// Without a driver the runtime's own calls fail in several ways; its version is the one that never
// does.
absl::Status CheckDriver() {
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return absl::FailedPreconditionError(
        "no CUDA device: there is no NVIDIA driver on this machine");
  }
  if (cudaRuntimeGetVersion(&runtime) == cudaSuccess && driver / 1000 < runtime / 1000) {
    return absl::FailedPreconditionError(absl::StrCat("no CUDA device: the driver is for CUDA ",
                                                      Version(driver), ", want ",
                                                      Version(runtime / 1000 * 1000), " or later"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int> ParseDeviceIndex(const std::string& device) {
  absl::string_view index_text = device;
  int index = -1;
  if (absl::ConsumePrefix(&index_text, "cuda:") && absl::SimpleAtoi(index_text, &index) &&
      index >= 0) {
    return index;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device is '", device, "', want cuda:<index>, such as cuda:0"));
}

absl::StatusOr<Device> FindDevice(int index) {
  VITSCALE_RETURN_IF_ERROR(CheckDriver());
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA device: ", CudaStatus(error, "count devices").message()));
  }
  if (index >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA device: device is cuda:", index, ", this machine has ", count));
  }
  cudaDeviceProp properties{};
  VITSCALE_RETURN_IF_ERROR(
      CudaStatus(cudaGetDeviceProperties(&properties, index), "read device properties"));
  Device device{index,
                properties.name,
                {properties.major * 10 + properties.minor, properties.multiProcessorCount,
                 static_cast<int64_t>(properties.sharedMemPerBlockOptin), properties.l2CacheSize}};
  if (device.limits.sm < kSmLeast) {
    return absl::FailedPreconditionError(absl::StrCat("cuda:", index, " is ", device.name, " (sm_",
                                                      device.limits.sm, "), want sm_", kSmLeast,
                                                      " or later"));
  }
  return device;
}

absl::Status UseDevice(const Device& device) {
  return CudaStatus(cudaSetDevice(device.index), absl::StrCat("use cuda:", device.index));
}

int64_t MemoryInUse(const Device& device) {
  size_t free = 0, total = 0;
  if (!UseDevice(device).ok() || cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return static_cast<int64_t>(total - free);
}

std::string DriverVersion() {
  std::string version;
  if (std::ifstream("/sys/module/nvidia/version") >> version) return version;
  int cuda = 0;
  (void)cudaDriverGetVersion(&cuda);
  return absl::StrCat(cuda);
}

std::string RuntimeVersion() {
  int version = 0;
  (void)cudaRuntimeGetVersion(&version);
  return absl::StrCat("CUDA ", Version(version));
}

}  // namespace vitscale::cuda
