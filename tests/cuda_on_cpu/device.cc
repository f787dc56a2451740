#include "tests/cuda_on_cpu/device.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"
#include "tests/cuda_on_cpu/fault.h"
#include "tests/cuda_on_cpu/sanitizer.h"

namespace vitscale::cuda_on_cpu {
namespace {

constexpr size_t kAlignment = 256;
// Greater allocations stay visible to the host: hiding them would cost more than the kernels do.
constexpr size_t kHiddenBytesMax = size_t{8} << 20;
constexpr size_t kSharedBytesUnasked = 48 * 1024;
constexpr size_t kSharedBytesMax = 227 * 1024;
constexpr int kGarbage = 0xff;  // NaN in f32 and bf16
constexpr size_t kPinnedGarbage =
    64 * 1024;  // staging buffers are large and made for every backend

bool Hidden(const Allocation& a) { return !a.pinned && a.bytes <= kHiddenBytesMax; }

std::string Name(const Toucher& toucher) {
  return toucher.kernel != nullptr ? absl::StrCat("kernel ", FunctionName(toucher.kernel))
                                   : std::string(toucher.call);
}

void Join(Clock& to, const Clock& from) {
  for (const auto& [stream, at] : from) to[stream] = std::max(to[stream], at);
}

}  // namespace

void CopyBytes(void* to, const void* from, size_t bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}
void FillBytes(void* to, int value, size_t bytes) {
  asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
}

Device& Device::Get() {
  static auto* device = new Device;
  return *device;
}

int& Device::Current() {
  thread_local int current = 0;
  return current;
}

// ---- memory ------------------------------------------------------------------------------------

cudaError_t Device::Allocate(size_t bytes, bool pinned, void** out) {
  *out = nullptr;
  if (fail_in > 0 && --fail_in == 0) return cudaErrorMemoryAllocation;
  if (bytes == 0) return cudaSuccess;
  const auto live_bytes = counts.live_bytes + static_cast<int64_t>(bytes);
  if (!pinned && live_bytes > memory_bytes) return cudaErrorMemoryAllocation;
  if (posix_memalign(out, kAlignment, bytes) != 0) return cudaErrorMemoryAllocation;
  FillBytes(*out, kGarbage, pinned ? std::min(bytes, kPinnedGarbage) : bytes);
  Allocation& made = allocations_[static_cast<const std::byte*>(*out)];
  made = {static_cast<std::byte*>(*out), bytes, pinned, Current(), {}, {}};
  if (!memory_open_ && Hidden(made)) Poison(made.begin, bytes);
  ++counts.allocations;
  ++counts.live;
  if (!pinned) counts.live_bytes = live_bytes;
  return cudaSuccess;
}

// Waits for everything, as cudaFree does.
cudaError_t Device::Free(void* p, bool pinned) {
  if (p == nullptr) return cudaSuccess;
  const auto found = allocations_.find(static_cast<const std::byte*>(p));
  if (found == allocations_.end() || found->second.pinned != pinned) return cudaErrorInvalidValue;
  if (!pinned && found->second.device != Current()) {
    Fault(absl::StrCat("cudaFree of memory of device ", found->second.device,
                       " by a thread that uses device ", Current(), ", which it waits for"));
  }
  WaitAll();
  --counts.live;
  if (!pinned) counts.live_bytes -= static_cast<int64_t>(found->second.bytes);
  Unpoison(found->second.begin, found->second.bytes);
  std::free(p);
  allocations_.erase(found);
  return cudaSuccess;
}

Allocation* Device::Find(const void* p) {
  const auto* at = static_cast<const std::byte*>(p);
  auto next = allocations_.upper_bound(at);
  if (next == allocations_.begin()) return nullptr;
  Allocation& candidate = std::prev(next)->second;
  return at <= candidate.end() ? &candidate : nullptr;
}

void Device::OpenMemory(bool open) {
  if (open == memory_open_) return;
  memory_open_ = open;
  for (auto& [begin, allocation] : allocations_) {
    if (!Hidden(allocation)) continue;
    if (open) {
      Unpoison(begin, allocation.bytes);
      PoisonGuards(allocation);
    } else {
      Poison(begin, allocation.bytes);
    }
  }
}

void Device::PoisonGuards(const Allocation& allocation) {
  for (const Guard& guard : allocation.guards) Poison(allocation.begin + guard.begin, guard.bytes);
}

void GuardLastCopied(const std::vector<Guard>& guards) {
  Device& device = Device::Get();
  std::lock_guard lock(device.mutex());
  Allocation* allocation = device.Find(device.last_copied_to);
  if (allocation == nullptr) Fault("GuardLastCopied: nothing was copied to the device");
  allocation->guards = guards;
  device.PoisonGuards(*allocation);
}

// ---- streams -----------------------------------------------------------------------------------

std::shared_ptr<Stream> Device::Open(cudaStream_t stream) {
  if (stream == nullptr) return default_stream_;
  const auto found = streams_.find(stream);
  if (found == streams_.end()) Fault("a stream is used that does not exist");
  return found->second;
}

cudaStream_t Device::NewStream() {
  auto stream = std::make_shared<Stream>();
  stream->id = ++streams_made_;
  stream->device = Current();
  auto* handle = reinterpret_cast<cudaStream_t>(stream.get());
  streams_[handle] = std::move(stream);
  return handle;
}

void Device::DestroyStream(cudaStream_t stream) {
  const std::shared_ptr<Stream> opened = Open(stream);
  WaitUntil(*opened, opened->put);
  streams_.erase(stream);
}

void Device::Put(Stream& stream, Toucher toucher, const std::vector<Touch>& touches,
                 std::function<void()> run, std::function<bool()> ready) {
  Join(stream.clock, host_);
  stream.clock[stream.id] = ++stream.put;
  for (const Touch& touch : touches) Check(stream, toucher, touch);
  stream.pending.push_back({std::move(run), std::move(ready)});
}

void Device::Check(const Stream& stream, Toucher toucher, const Touch& touch) {
  Allocation* allocation = Find(touch.begin);
  if (allocation == nullptr) return;
  Access now{allocation->begin, allocation->end(), touch.writes, stream.id, stream.put, toucher};
  if (touch.bytes > 0) {
    now.begin = static_cast<const std::byte*>(touch.begin);
    now.end = now.begin + touch.bytes;
  }
  std::vector<Access> kept;
  for (const Access& old : allocation->accesses) {
    const auto seen = stream.clock.find(old.stream);
    const bool ordered = seen != stream.clock.end() && seen->second >= old.at;
    const bool overlap = old.begin < now.end && now.begin < old.end;
    if (overlap && !ordered && (old.writes || now.writes)) {
      Fault(absl::StrCat("two streams touch one buffer without an event between: ", Name(toucher),
                         " on stream ", stream.id, now.writes ? " writes" : " reads", " what ",
                         Name(old.toucher), " on stream ", old.stream,
                         old.writes ? " writes" : " reads"));
    }
    const bool covered = now.begin <= old.begin && old.end <= now.end;
    if (!(ordered && covered && (now.writes || !old.writes))) kept.push_back(old);
  }
  kept.push_back(now);
  allocation->accesses = std::move(kept);
}

bool Device::RunUntil(Stream& stream, uint64_t put) {
  ++running_;
  while (stream.done < put) {
    if (stream.pending.front().ready && !stream.pending.front().ready()) break;
    Work work = std::move(stream.pending.front());
    stream.pending.pop_front();
    ++stream.done;
    work.run();
  }
  if (--running_ == 0) OpenMemory(false);
  return stream.done >= put;
}

// Every thread would wait for the one that holds the device: no peer could ever come.
void Device::WaitUntil(Stream& stream, uint64_t put) {
  if (RunUntil(stream, put)) return;
  Fault(absl::StrCat("a call that blocks waits for stream ", stream.id,
                     ", which waits for ranks of a collective"));
}

void Device::HostSees(const Clock& clock) { Join(host_, clock); }

void Device::Wait(Stream& stream) {
  WaitUntil(stream, stream.put);
  HostSees(stream.clock);
}

void Device::WaitAll() {
  for (const auto& [handle, stream] : streams_) {
    if (stream->device == Current()) Wait(*stream);
  }
  Wait(*default_stream_);
}

// ---- launches ----------------------------------------------------------------------------------

namespace {

cudaError_t CheckLaunch(const Launched& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kThreadsMax || block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const bool too_much = launch.shared_bytes > Device::Get().SharedLimit(launch.kernel);
  return too_much ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t CheckStream(cudaStream_t handle) {
  const bool foreign = handle != nullptr && Device::Get().Open(handle)->device != Device::Current();
  return foreign ? cudaErrorInvalidResourceHandle : cudaSuccess;
}

// Adds all kernels that were launched to the file that VITSCALE_CUDA_KERNELS names, "SHARED_BYTES
// NAME" each: coverage.sh counts them.
void WriteKernelsAtExit() {
  static const bool once = [] {
    if (std::getenv("VITSCALE_CUDA_KERNELS") == nullptr) return false;
    return std::atexit([] {
             std::ofstream file(std::getenv("VITSCALE_CUDA_KERNELS"), std::ios::app);
             for (const auto& [kernel, bytes] : SharedBytes())
               file << bytes << " " << kernel << "\n";
           }) == 0;
  }();
  (void)once;
}

}  // namespace

absl::Status LaunchKernel(Launched launched, std::vector<cuda::host_twin::KernelArgument> arguments,
                          cudaStream_t handle) {
  Device& device = Device::Get();
  std::lock_guard lock(device.mutex());
  for (const cudaError_t error : {CheckLaunch(launched), CheckStream(handle)}) {
    VITSCALE_RETURN_IF_ERROR(cuda::CudaStatus(error, "launch"));
  }
  std::vector<Device::Touch> touches;
  for (const auto& argument : arguments) {
    if (argument.pointer == nullptr) continue;
    if (device.Find(argument.pointer) != nullptr) {
      touches.push_back({argument.pointer, 0, argument.writes});
    } else if (argument.typed) {
      Fault(absl::StrCat("an argument of kernel ", FunctionName(launched.kernel),
                         " points to memory that is not the device's"));
    }
  }
  WriteKernelsAtExit();
  ++device.counts.launches;
  int64_t& shared_bytes = device.shared_bytes[launched.kernel];
  shared_bytes = std::max(shared_bytes, static_cast<int64_t>(launched.shared_bytes));
  const std::shared_ptr<Stream> stream = device.Open(handle);
  const void* kernel = launched.kernel;
  device.Put(*stream, {nullptr, kernel}, touches,
             [launched = std::move(launched)] { Device::Get().RunKernel(launched); });
  return absl::OkStatus();
}

// The last one counts, as on a device.
cudaError_t Device::SetSharedLimit(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kSharedBytesMax) return cudaErrorInvalidValue;
  shared_limits_[{kernel, Current()}] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

size_t Device::SharedLimit(const void* kernel) const {
  const auto found = shared_limits_.find({kernel, Current()});
  return found == shared_limits_.end() ? kSharedBytesUnasked : found->second;
}

void Device::RunKernel(const Launched& launched) {
  OpenMemory(true);
  RunGrid(launched);
}

// ---- for tests ---------------------------------------------------------------------------------

DeviceCounts Counts() {
  std::lock_guard lock(Device::Get().mutex());
  return Device::Get().counts;
}
std::map<std::string, int64_t> SharedBytes() {
  std::lock_guard lock(Device::Get().mutex());
  std::map<std::string, int64_t> by_name;
  for (const auto& [kernel, bytes] : Device::Get().shared_bytes) {
    int64_t& most = by_name[FunctionName(kernel)];
    most = std::max(most, bytes);
  }
  return by_name;
}
void FailAllocation(int n) {
  std::lock_guard lock(Device::Get().mutex());
  Device::Get().fail_in = n;
}
void SetDeviceMemory(int64_t bytes) {
  std::lock_guard lock(Device::Get().mutex());
  Device::Get().memory_bytes = bytes;
}
void SetDeviceCount(int count) {
  std::lock_guard lock(Device::Get().mutex());
  Device::Get().device_count = count;
}

}  // namespace vitscale::cuda_on_cpu
