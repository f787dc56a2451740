#include "server/core/device_claims.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int64_t kMemoryBytesMax = int64_t{1} << 50;
constexpr int kThreadsMax = 1 << 16;
constexpr size_t kTextMax = 256;
constexpr size_t kDirtyMax = 300;

bool IsControl(char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); }

absl::Status CheckText(const char* field, const std::string& text) {
  if (text.size() > kTextMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("device.", field, " has ", text.size(), " bytes, wanted at most ", kTextMax));
  }
  if (std::any_of(text.begin(), text.end(), IsControl)) {
    return absl::InvalidArgumentError(
        absl::StrCat("device.", field, " has control characters, wanted plain text"));
  }
  return absl::OkStatus();
}

absl::Status CheckNumber(const char* field, int64_t value, int64_t most) {
  if (value >= 0 && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("device.", field, " was ", value, ", wanted 0 to ", most));
}

// Not in the middle of a character of UTF-8.
size_t CutAt(const std::string& text, size_t most) {
  if (text.size() <= most) return text.size();
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xc0) == 0x80) --most;
  return most;
}

}  // namespace

absl::Status CheckDevice(const v1::DeviceInfo& device) {
  if (device.kind() != v1::DEVICE_CPU && device.kind() != v1::DEVICE_CUDA) {
    return absl::InvalidArgumentError(
        absl::StrCat("device.kind was ", static_cast<int>(device.kind()), ", wanted cpu or cuda"));
  }
  VITSCALE_RETURN_IF_ERROR(CheckNumber("memory_bytes", device.memory_bytes(), kMemoryBytesMax));
  VITSCALE_RETURN_IF_ERROR(CheckNumber("threads", device.threads(), kThreadsMax));
  VITSCALE_RETURN_IF_ERROR(CheckText("name", device.name()));
  VITSCALE_RETURN_IF_ERROR(CheckText("model", device.model()));
  VITSCALE_RETURN_IF_ERROR(CheckText("instruction_set", device.instruction_set()));
  VITSCALE_RETURN_IF_ERROR(CheckText("libraries", device.libraries()));
  return CheckText("driver", device.driver());
}

void CleanDeviceUse(v1::DeviceUse& use) {
  use.set_used_bytes(std::max<int64_t>(0, use.used_bytes()));
  use.set_free_bytes(std::max<int64_t>(0, use.free_bytes()));
  use.set_foreign_processes(std::max(0, use.foreign_processes()));
  std::string& dirty = *use.mutable_dirty();
  dirty.resize(CutAt(dirty, kDirtyMax));
  std::replace_if(dirty.begin(), dirty.end(), IsControl, '?');
}

}  // namespace vitscale
