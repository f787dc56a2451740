#include "worker/trainer/device_name.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"
#include "worker/card/nvml.h"

namespace vitscale {
namespace {

constexpr int kIndexMax = 1023;

// "3" -> 3; nothing with a sign, spaces or leading zeros.
bool ParseIndex(absl::string_view text, int* index) {
  return absl::SimpleAtoi(text, index) && *index >= 0 && *index <= kIndexMax &&
         absl::StrCat(*index) == text;
}

const char* KindName(WantedDevice kind) {
  return kind == WantedDevice::kCpu ? "cpu" : kind == WantedDevice::kCuda ? "cuda" : "any";
}

absl::Status CheckKind(absl::string_view noun, absl::string_view device, WantedDevice is,
                       WantedDevice wanted) {
  if (wanted == WantedDevice::kAny || wanted == is) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      noun, " is ", device, ", but the job wants resources.device: ", KindName(wanted)));
}

}  // namespace

absl::StatusOr<std::string> DeviceOfRank(absl::string_view flag, WantedDevice wanted, int rank) {
  std::string given(flag);
  if (given.empty()) given = wanted == WantedDevice::kCuda ? "cuda" : "cpu";
  absl::string_view index_text = given;
  int index = rank;
  const bool cpu = given == "cpu";
  const bool indexed = absl::ConsumePrefix(&index_text, "cuda:");
  if (!cpu && given != "cuda" && !(indexed && ParseIndex(index_text, &index))) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device: was \"", given, "\", wanted cpu, cuda or cuda:<index>"));
  }
  VITSCALE_RETURN_IF_ERROR(
      CheckKind("--device", given, cpu ? WantedDevice::kCpu : WantedDevice::kCuda, wanted));
  return absl::StrCat(cpu ? "cpu" : "cuda", index);
}

absl::StatusOr<std::string> BackendDeviceOf(absl::string_view worker_device, WantedDevice wanted) {
  absl::string_view rest = worker_device;
  int index = 0;
  const bool cuda = absl::ConsumePrefix(&rest, "cuda");
  if (!worker_device.empty() &&
      !((cuda || absl::ConsumePrefix(&rest, "cpu")) && ParseIndex(rest, &index))) {
    return absl::InvalidArgumentError(
        absl::StrCat("device of the worker: was '", worker_device, "', wanted cpu<i> or cuda<i>"));
  }
  VITSCALE_RETURN_IF_ERROR(CheckKind("this worker's device", worker_device,
                                     cuda ? WantedDevice::kCuda : WantedDevice::kCpu, wanted));
  return cuda ? absl::StrCat("cuda:", index) : std::string("cpu");
}

void CountCardsByBus() { setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", /*overwrite=*/0); }

int64_t DeviceMemoryBytes(absl::string_view backend_device) {
  int index = 0;
  if (!absl::ConsumePrefix(&backend_device, "cuda:"))
    return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  if (!ParseIndex(backend_device, &index)) return 0;
  const auto nvml = Nvml::Open();
  if (!nvml.ok()) return 0;
  const auto card = (*nvml)->ReadVisible(index);
  return card.ok() && !card->divided ? card->memory_bytes : 0;
}

}  // namespace vitscale
