#include "worker/agent/device_info.h"

#include <sys/sysinfo.h>

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/files.h"

namespace vitscale::agent {
namespace {

constexpr int64_t kCpuInfoBytesMax = 4 << 20;
constexpr int kDeviceNumberMax = 1023;
constexpr int kSmLeast = 80;  // bf16 in tensor cores, asynchronous copies

std::string CpuModel() {
  const auto text = PosixFileSystem().ReadFile("/proc/cpuinfo", kCpuInfoBytesMax);
  if (!text.ok()) return "unknown";
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::StartsWith(line, "model name")) continue;
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (parts.size() == 2) return std::string(absl::StripAsciiWhitespace(parts[1]));
  }
  return "unknown";
}

int64_t MemoryBytes() {
  struct sysinfo info {};
  return sysinfo(&info) == 0 ? static_cast<int64_t>(info.totalram) * info.mem_unit : 0;
}

bool IsNumbered(absl::string_view device, absl::string_view kind, int* number) {
  if (!absl::ConsumePrefix(&device, kind)) return false;
  return absl::SimpleAtoi(device, number) && *number >= 0 && *number <= kDeviceNumberMax &&
         absl::StrCat(*number) == device;
}

}  // namespace

std::string BestInstructionSet() {
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return "avx512_bf16";
  if (avx512) return "avx512";
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "avx2" : "";
}

absl::StatusOr<std::optional<int>> CardIndexOf(absl::string_view device) {
  int number = 0;
  if (IsNumbered(device, "cuda", &number)) return std::optional<int>(number);
  if (IsNumbered(device, "cpu", &number)) return std::optional<int>();
  return absl::InvalidArgumentError(
      absl::StrCat("device '", device, "': expected cpu<i> or cuda<i>, for example cpu0"));
}

absl::StatusOr<v1::DeviceInfo> DescribeCard(absl::string_view device, const Card& card,
                                            int threads) {
  if (card.sm < kSmLeast) {
    return absl::FailedPreconditionError(absl::StrCat("device '", device, "' is ", card.name,
                                                      " (sm_", card.sm, "), want sm_", kSmLeast,
                                                      " or later"));
  }
  if (card.divided) {
    return absl::FailedPreconditionError(
        absl::StrCat("device '", device, "' is ", card.name,
                     ", divided into instances (MIG), want a whole card: nvidia-smi -mig 0"));
  }
  v1::DeviceInfo info;
  info.set_kind(v1::DEVICE_CUDA);
  info.set_name(std::string(device));
  info.set_model(card.name);
  info.set_instruction_set(absl::StrCat("sm_", card.sm));
  info.set_bf16(true);
  info.set_memory_bytes(card.memory_bytes);
  info.set_threads(threads);
  info.set_driver(card.driver);
  return info;
}

absl::StatusOr<v1::DeviceInfo> DescribeCpu(absl::string_view device, int threads) {
  const std::string instruction_set = BestInstructionSet();
  if (instruction_set.empty()) {
    return absl::FailedPreconditionError("this CPU has no AVX2 and FMA");
  }
  v1::DeviceInfo info;
  info.set_kind(v1::DEVICE_CPU);
  info.set_name(std::string(device));
  info.set_model(CpuModel());
  info.set_instruction_set(instruction_set);
  info.set_bf16(instruction_set == "avx512_bf16");
  info.set_memory_bytes(MemoryBytes());
  info.set_threads(threads);
  return info;
}

}  // namespace vitscale::agent
