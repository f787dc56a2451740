#include "kernels/cuda/runtime/device.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
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

// As NVML writes it: "GPU-8f2a6c10-…", groups of 4, 2, 2, 2 and 6 bytes.
std::string UuidText(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    const bool begins = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
    absl::StrAppend(&text, begins ? "-" : "",
                    absl::Hex(static_cast<unsigned char>(uuid.bytes[i]), absl::kZeroPad2));
  }
  return text;
}

absl::Status CheckIsTheWorkersCard(int index, const cudaDeviceProp& properties) {
  const char* wanted = std::getenv("VITSCALE_CARD_UUID");
  const std::string uuid = UuidText(properties.uuid);
  if (wanted == nullptr || *wanted == '\0' || uuid == wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("no CUDA device: cuda:", index, " is the card ",
                                                    uuid, ", this worker has ", wanted));
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
  VITSCALE_RETURN_IF_ERROR(CheckIsTheWorkersCard(index, properties));
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
