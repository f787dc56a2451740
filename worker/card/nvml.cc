#include "worker/card/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
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
constexpr Result kSuccess = 0, kNotSupported = 3, kNoPermission = 4, kInsufficientSize = 7;

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
  Result (*mig_mode)(Device, uint32_t* current, uint32_t* pending);  // null before driver 450
};

// ---- what can be true ----------------------------------------------------------

constexpr uint32_t kCardsMax = 256;
constexpr uint32_t kProcessesMax = 4096;
constexpr uint64_t kMemoryBytesMax = uint64_t{1} << 46;  // 64 TiB
constexpr int kMajorMax = 99;
constexpr size_t kTextMax = 96;  // the library's own limit for all of them

// Whether it ends or not: printable ASCII, since it goes into messages, which must be UTF-8, and on
// terminals.
std::string Clean(const char* raw) {
  std::string text(raw, strnlen(raw, kTextMax));
  for (char& c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return std::string(absl::StripAsciiWhitespace(text));
}

// "error 15 (GPU is lost)".
std::string ErrorText(const Functions& functions, Result result) {
  const char* text = functions.error_string(result);
  return absl::StrCat("error ", result, " (", text == nullptr ? "unknown" : Clean(text), ")");
}

class OpenNvml : public Nvml {
 public:
  explicit OpenNvml(const Functions& functions) : f_(functions) {}
  ~OpenNvml() override {
    if (open_) (void)f_.shutdown();
  }

  absl::StatusOr<int> Count() override {
    VITSCALE_RETURN_IF_ERROR(BeginAnewAfterFailure());
    auto count = CountNow();
    failed_ = !count.ok();
    return count;
  }

  absl::StatusOr<Card> Read(int index) override {
    VITSCALE_ASSIGN_OR_RETURN(const int count, Count());
    if (index < 0 || index >= count) {
      failed_ = true;  // it may have fallen off the bus, and come back
      return absl::NotFoundError(absl::StrCat("card ", index, ": this machine has ", count));
    }
    auto card = ReadThis(index);
    failed_ = !card.ok();
    if (!card.ok()) return Annotate(card.status(), absl::StrCat("card ", index));
    return card;
  }

 private:
  absl::Status Check(Result result, const char* what) const {
    if (result == kSuccess) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("NVML: ", what, ": ", ErrorText(f_, result)));
  }

  absl::Status BeginAnewAfterFailure() {
    if (!failed_) return absl::OkStatus();
    if (open_) (void)f_.shutdown();
    const Result result = f_.init();
    open_ = result == kSuccess;
    return Check(result, "begin anew");
  }

  absl::StatusOr<int> CountNow() const {
    uint32_t count = 0;
    VITSCALE_RETURN_IF_ERROR(Check(f_.count(&count), "count cards"));
    if (count > kCardsMax) {
      return absl::InternalError(absl::StrCat("NVML: ", count, " cards, want at most ", kCardsMax));
    }
    return static_cast<int>(count);
  }

  template <typename Get>
  absl::StatusOr<std::string> Text(const char* what, Get get) const {
    std::array<char, kTextMax> raw{};
    VITSCALE_RETURN_IF_ERROR(Check(get(raw.data(), static_cast<uint32_t>(raw.size())), what));
    return Clean(raw.data());
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
    VITSCALE_ASSIGN_OR_RETURN(card.processes, Processes(device, card.memory_bytes));
    uint32_t current = 0, pending = 0;
    card.divided = f_.mig_mode != nullptr && f_.mig_mode(device, &current, &pending) == kSuccess &&
                   current != 0;
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

  // The second form tells what the driver keeps for itself, some 0.6 GB of a large card: nobody can
  // allocate that.
  absl::Status ReadMemory(Device device, Card* card) const {
    MemoryV2 memory{};
    memory.version = kMemoryV2;
    if (f_.memory_v2 == nullptr || f_.memory_v2(device, &memory) != kSuccess) {
      Memory old{};
      VITSCALE_RETURN_IF_ERROR(Check(f_.memory(device, &old), "memory"));
      memory = {kMemoryV2, old.total, 0, old.free, old.used};
    }
    if (memory.total == 0 || memory.total > kMemoryBytesMax || memory.used > memory.total ||
        memory.free > memory.total || memory.reserved >= memory.total) {
      return absl::InternalError(absl::StrCat("NVML: memory does not add up: ", memory.total,
                                              " bytes, ", memory.used, " used, ", memory.free,
                                              " free"));
    }
    card->memory_bytes = static_cast<int64_t>(memory.total - memory.reserved);
    card->used_bytes = static_cast<int64_t>(memory.used);
    card->free_bytes = static_cast<int64_t>(memory.free);
    return absl::OkStatus();
  }

  // They come and go: the library is asked again while the list has grown. Empty where it has none
  // to show, or not to us: the memory in use still tells.
  absl::StatusOr<std::vector<CardProcess>> Processes(Device device, int64_t memory_bytes) const {
    std::vector<ProcessInfo> infos(32);
    for (int attempt = 0; attempt < 8; ++attempt) {
      uint32_t count = static_cast<uint32_t>(infos.size());
      const Result result = f_.processes(device, &count, infos.data());
      if (result == kNotSupported || result == kNoPermission) return std::vector<CardProcess>{};
      if (result != kInsufficientSize) VITSCALE_RETURN_IF_ERROR(Check(result, "processes"));
      if (count > kProcessesMax) {
        return absl::InternalError(
            absl::StrCat("NVML: ", count, " processes, want at most ", kProcessesMax));
      }
      if (result == kInsufficientSize || count > infos.size()) {
        infos.resize(std::max<size_t>(2 * infos.size(), count));
        continue;
      }
      infos.resize(count);
      return ProcessesOf(infos, static_cast<uint64_t>(memory_bytes));
    }
    return absl::InternalError("NVML: the list of processes grows faster than it can be read");
  }

  // One that is in several instances of a divided card is listed for each.
  static std::vector<CardProcess> ProcessesOf(const std::vector<ProcessInfo>& infos,
                                              uint64_t memory_bytes) {
    std::vector<CardProcess> processes;
    std::map<uint32_t, size_t> place;
    for (const ProcessInfo& info : infos) {
      const bool known = info.used_bytes <= memory_bytes;  // "not available" is 2^64 - 1
      const int64_t bytes = known ? static_cast<int64_t>(info.used_bytes) : 0;
      const auto [it, fresh] = place.try_emplace(info.pid, processes.size());
      if (fresh) processes.push_back({info.pid, 0});
      CardProcess& process = processes[it->second];
      process.memory_bytes =
          std::min(process.memory_bytes + bytes, static_cast<int64_t>(memory_bytes));
    }
    return processes;
  }

  const Functions f_;
  bool open_ = true, failed_ = false;
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
  (void)Find(library, "nvmlDeviceGetMigMode", &f.mig_mode);
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
    return absl::FailedPreconditionError(
        absl::StrCat("NVML: no driver to speak to: ", ErrorText(functions, result)));
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
  absl::Status unreadable;  // it may be the one
  for (int i = 0; i < count && !seen[index].empty(); ++i) {
    auto card = Read(i);
    if (card.ok() && card->uuid.rfind(seen[index], 0) == 0) return card;
    unreadable.Update(card.status());
  }
  if (!unreadable.ok()) return unreadable;
  return absl::NotFoundError(absl::StrCat("card '", seen[index], "' of CUDA_VISIBLE_DEVICES"));
}

std::string DirtyReason(const Card& card) {
  const auto gigabytes = [](int64_t bytes) { return absl::StrFormat("%.1f GB", 1e-9 * bytes); };
  if (card.divided) return "it is divided into instances (MIG), and a trainer takes a whole card";
  if (!card.processes.empty()) {
    const CardProcess& first = card.processes.front();
    const size_t more = card.processes.size() - 1;
    return absl::StrCat(
        first.pid == 0 ? "a process of another container" : absl::StrCat("process ", first.pid),
        " holds ", first.memory_bytes > 0 ? gigabytes(first.memory_bytes) + " of it" : "it",
        more > 0 ? absl::StrCat(", and ", more, " more") : "");
  }
  if (card.used_bytes < kForeignBytesMin) return "";
  return absl::StrCat(gigabytes(card.used_bytes), " of it are in use");
}

}  // namespace vitscale
