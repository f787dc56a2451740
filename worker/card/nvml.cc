#include "worker/card/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

// ---- the library's own words ---------------------------------------------------

using Result = int;
using Device = struct Opaque*;
constexpr Result kSuccess = 0, kNotSupported = 3, kInsufficientSize = 7;
constexpr uint64_t kNotAvailable = ~uint64_t{0};

struct Memory {
  uint64_t total, free, used;
};
struct MemoryV2 {
  uint32_t version;
  uint64_t total, reserved, free, used;
};
constexpr uint32_t kMemoryV2 = sizeof(MemoryV2) | (2u << 24);
struct ProcessInfo {
  uint32_t pid;
  uint64_t used_bytes;
  uint32_t gpu_instance, compute_instance;
};
static_assert(sizeof(Memory) == 24 && sizeof(MemoryV2) == 40 && sizeof(ProcessInfo) == 24);

struct Functions {
  Result (*init)();
  Result (*shutdown)();
  const char* (*error_string)(Result);
  Result (*driver_version)(char*, uint32_t);
  Result (*count)(uint32_t*);
  Result (*handle)(uint32_t, Device*);
  Result (*name)(Device, char*, uint32_t);
  Result (*uuid)(Device, char*, uint32_t);
  Result (*memory)(Device, Memory*);
  Result (*memory_v2)(Device, MemoryV2*);  // null before driver 510
  Result (*capability)(Device, int*, int*);
  Result (*processes)(Device, uint32_t*, ProcessInfo*);
};

// ---- what can be true ----------------------------------------------------------

constexpr uint32_t kCardsMax = 256;
constexpr uint32_t kProcessesMax = 4096;
constexpr uint64_t kMemoryBytesMax = uint64_t{1} << 46;  // 64 TiB
constexpr int kMajorMax = 99;
constexpr size_t kTextMax = 96;  // the library's own limit for all of them

// Whether it ends or not: printable ASCII, since it goes into messages and on terminals.
std::string Clean(const std::array<char, kTextMax>& raw) {
  std::string text(raw.begin(), std::find(raw.begin(), raw.end(), '\0'));
  for (char& c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return std::string(absl::StripAsciiWhitespace(text));
}

class OpenNvml : public Nvml {
 public:
  explicit OpenNvml(const Functions& functions) : f_(functions) {}
  ~OpenNvml() override { (void)f_.shutdown(); }

  absl::StatusOr<int> Count() override {
    uint32_t count = 0;
    VITSCALE_RETURN_IF_ERROR(Check(f_.count(&count), "count cards"));
    if (count > kCardsMax) {
      return absl::InternalError(absl::StrCat("NVML: ", count, " cards, want at most ", kCardsMax));
    }
    return static_cast<int>(count);
  }

  absl::StatusOr<Card> Read(int index) override {
    VITSCALE_ASSIGN_OR_RETURN(const int count, Count());
    if (index < 0 || index >= count) {
      return absl::NotFoundError(absl::StrCat("card ", index, ": this machine has ", count));
    }
    auto card = ReadThis(index);
    if (!card.ok()) return Annotate(card.status(), absl::StrCat("card ", index));
    return card;
  }

 private:
  absl::Status Check(Result result, const char* what) const {
    if (result == kSuccess) return absl::OkStatus();
    const char* text = f_.error_string(result);
    return absl::InternalError(absl::StrCat("NVML: ", what, ": error ", result, " (",
                                            text == nullptr ? "unknown" : text, ")"));
  }

  template <typename Get>
  absl::StatusOr<std::string> Text(const char* what, Get get) const {
    std::array<char, kTextMax> raw{};
    VITSCALE_RETURN_IF_ERROR(Check(get(raw.data(), static_cast<uint32_t>(raw.size())), what));
    return Clean(raw);
  }

  absl::StatusOr<Card> ReadThis(int index) const {
    Device device = nullptr;
    VITSCALE_RETURN_IF_ERROR(Check(f_.handle(static_cast<uint32_t>(index), &device), "open"));
    Card card;
    const auto name = [&](char* to, uint32_t bytes) { return f_.name(device, to, bytes); };
    const auto uuid = [&](char* to, uint32_t bytes) { return f_.uuid(device, to, bytes); };
    VITSCALE_ASSIGN_OR_RETURN(card.name, Text("name", name));
    VITSCALE_ASSIGN_OR_RETURN(card.uuid, Text("uuid", uuid));
    VITSCALE_ASSIGN_OR_RETURN(card.driver, Text("driver version", f_.driver_version));
    VITSCALE_ASSIGN_OR_RETURN(card.sm, Capability(device));
    VITSCALE_RETURN_IF_ERROR(ReadMemory(device, &card));
    VITSCALE_ASSIGN_OR_RETURN(card.processes, Processes(device));
    return card;
  }

  absl::StatusOr<int> Capability(Device device) const {
    int major = 0, minor = 0;
    VITSCALE_RETURN_IF_ERROR(Check(f_.capability(device, &major, &minor), "compute capability"));
    if (major < 1 || major > kMajorMax || minor < 0 || minor > 9) {
      return absl::InternalError(
          absl::StrCat("NVML: compute capability is ", major, ".", minor, ", want such as 9.0"));
    }
    return 10 * major + minor;
  }

  // The second form leaves out what the driver keeps for itself, some 0.5 GB of a large card.
  absl::Status ReadMemory(Device device, Card* card) const {
    MemoryV2 memory{};
    memory.version = kMemoryV2;
    if (f_.memory_v2 == nullptr || f_.memory_v2(device, &memory) != kSuccess) {
      Memory old{};
      VITSCALE_RETURN_IF_ERROR(Check(f_.memory(device, &old), "memory"));
      memory = {kMemoryV2, old.total, 0, old.free, old.used};
    }
    if (memory.total == 0 || memory.total > kMemoryBytesMax || memory.used > memory.total ||
        memory.free > memory.total) {
      return absl::InternalError(absl::StrCat("NVML: memory does not add up: ", memory.total,
                                              " bytes, ", memory.used, " used, ", memory.free,
                                              " free"));
    }
    card->memory_bytes = static_cast<int64_t>(memory.total);
    card->used_bytes = static_cast<int64_t>(memory.used);
    card->free_bytes = static_cast<int64_t>(memory.free);
    return absl::OkStatus();
  }

  // They come and go: the library is asked again while the list has grown.
  absl::StatusOr<std::vector<CardProcess>> Processes(Device device) const {
    std::vector<ProcessInfo> infos(32);
    for (int attempt = 0; attempt < 8; ++attempt) {
      uint32_t count = static_cast<uint32_t>(infos.size());
      const Result result = f_.processes(device, &count, infos.data());
      if (result == kNotSupported) return std::vector<CardProcess>{};
      if (count > kProcessesMax) {
        return absl::InternalError(
            absl::StrCat("NVML: ", count, " processes, want at most ", kProcessesMax));
      }
      if (result == kInsufficientSize || count > infos.size()) {
        infos.resize(std::max<size_t>(2 * infos.size(), count));
        continue;
      }
      VITSCALE_RETURN_IF_ERROR(Check(result, "processes"));
      return ProcessesOf(infos, count);
    }
    return absl::InternalError("NVML: the list of processes grows faster than it can be read");
  }

  static std::vector<CardProcess> ProcessesOf(const std::vector<ProcessInfo>& infos,
                                              uint32_t count) {
    std::vector<CardProcess> processes;
    for (uint32_t i = 0; i < count; ++i) {
      const bool known =
          infos[i].used_bytes != kNotAvailable && infos[i].used_bytes <= kMemoryBytesMax;
      processes.push_back(
          {infos[i].pid, known ? static_cast<int64_t>(infos[i].used_bytes) : int64_t{0}});
    }
    return processes;
  }

  const Functions f_;
};

// ---- opening -------------------------------------------------------------------

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

absl::StatusOr<Functions> FindAll(void* library, const std::string& path) {
  Functions f{};
  const char* missing = nullptr;
  const auto need = [&](const char* name, auto* function) {
    if (!Find(library, name, function) && missing == nullptr) missing = name;
  };
  need("nvmlInit_v2", &f.init);
  need("nvmlShutdown", &f.shutdown);
  need("nvmlErrorString", &f.error_string);
  need("nvmlSystemGetDriverVersion", &f.driver_version);
  need("nvmlDeviceGetCount_v2", &f.count);
  need("nvmlDeviceGetHandleByIndex_v2", &f.handle);
  need("nvmlDeviceGetName", &f.name);
  need("nvmlDeviceGetUUID", &f.uuid);
  need("nvmlDeviceGetMemoryInfo", &f.memory);
  need("nvmlDeviceGetCudaComputeCapability", &f.capability);
  need("nvmlDeviceGetComputeRunningProcesses_v3", &f.processes);
  (void)Find(library, "nvmlDeviceGetMemoryInfo_v2", &f.memory_v2);
  if (missing == nullptr) return f;
  return absl::FailedPreconditionError(
      absl::StrCat("NVML: ", path, " has no ", missing, ": its driver is too old"));
}

std::string LibraryPath(const std::string& given) {
  if (!given.empty()) return given;
  const char* named = std::getenv("VITSCALE_NVML");
  return named != nullptr && *named != 0 ? named : "libnvidia-ml.so.1";
}

}  // namespace

// Never closed: a driver's library does not survive it.
absl::StatusOr<std::unique_ptr<Nvml>> Nvml::Open(const std::string& library) {
  const std::string path = LibraryPath(library);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("no NVIDIA driver: ", dlerror()));
  }
  VITSCALE_ASSIGN_OR_RETURN(const Functions functions, FindAll(handle, path));
  if (const Result result = functions.init(); result != kSuccess) {
    const char* text = functions.error_string(result);
    return absl::FailedPreconditionError(absl::StrCat("NVML: no driver to speak to: error ", result,
                                                      " (", text == nullptr ? "unknown" : text,
                                                      ")"));
  }
  return std::make_unique<OpenNvml>(functions);
}

absl::StatusOr<Card> Nvml::ReadVisible(int index) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr) return Read(index);
  const std::vector<std::string> seen = absl::StrSplit(visible, ',');
  if (index < 0 || index >= static_cast<int>(seen.size())) {
    return absl::NotFoundError(
        absl::StrCat("card ", index, ": CUDA_VISIBLE_DEVICES is \"", visible, "\""));
  }
  int number = 0;
  if (absl::SimpleAtoi(seen[index], &number)) return Read(number);
  VITSCALE_ASSIGN_OR_RETURN(const int count, Count());
  for (int i = 0; i < count; ++i) {
    VITSCALE_ASSIGN_OR_RETURN(Card card, Read(i));
    if (!seen[index].empty() && card.uuid.rfind(seen[index], 0) == 0) return card;
  }
  return absl::NotFoundError(absl::StrCat("card '", seen[index], "' of CUDA_VISIBLE_DEVICES"));
}

std::string DirtyReason(const Card& card) {
  const auto gigabytes = [](int64_t bytes) { return absl::StrFormat("%.1f GB", 1e-9 * bytes); };
  if (!card.processes.empty()) {
    const CardProcess& first = card.processes.front();
    const size_t more = card.processes.size() - 1;
    return absl::StrCat("process ", first.pid, " holds ",
                        first.memory_bytes > 0 ? gigabytes(first.memory_bytes) + " of it" : "it",
                        more > 0 ? absl::StrCat(", and ", more, " more") : "");
  }
  if (card.used_bytes < kForeignBytesMin) return "";
  return absl::StrCat(gigabytes(card.used_bytes), " of it are in use");
}

}  // namespace vitscale
