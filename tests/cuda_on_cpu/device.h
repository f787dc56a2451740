// The device that the stand-in for libcudart shows: an H100 whose memory is the heap's.
//
// Streams are lazy: work runs when the host waits for it (or asks whether it is done), so what is
// read too early is seen to be old. Work may have to wait for others (a collective for its peers):
// whoever asks is told that it is not done, and a call that would block until then aborts.
//
// Every piece of work is checked when it is put into a stream: if it touches a buffer that work of
// another stream touched and nothing orders the two, the layer aborts and names both. Vector
// clocks: an event carries the clock of its stream to the stream (or host) that waits for it.
//
// Memory and streams are a device's; which one a thread uses is its own (cudaSetDevice). To free
// memory waits for the thread's device alone, so memory of another one must not be freed by it.
//
// What is touched: copies and fills, their bytes; a kernel, the whole allocation of every pointer
// among its arguments (written unless it points to const; pointers inside of a struct count as
// written). Pointers in tables in device memory are not followed.

#ifndef TESTS_CUDA_ON_CPU_DEVICE_H_
#define TESTS_CUDA_ON_CPU_DEVICE_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/dialect/host_twin.h"
#include "tests/cuda_on_cpu/block.h"

namespace vitscale::cuda_on_cpu {

// ---- what tests may ask and change -------------------------------------------------------------

struct DeviceCounts {
  int64_t allocations = 0;  // cudaMalloc and cudaHostAlloc that succeeded, ever
  int64_t live = 0;         // not freed
  int64_t live_bytes = 0;   // of device memory
  int64_t launches = 0;     // of kernels, ever
};
DeviceCounts Counts();

// Most dynamic shared memory that each kernel was launched with so far, by its name.
std::map<std::string, int64_t> SharedBytes();

// The n-th allocation from now (1: the next) fails with cudaErrorMemoryAllocation; 0: none.
void FailAllocation(int n);

// Memory of the device; allocations beyond it fail. Default 80 GiB.
void SetDeviceMemory(int64_t bytes);

// How many devices there are; default 1.
void SetDeviceCount(int count);

// Bytes of the device's memory that kernels must not touch; the allocation is the one that the last
// copy from the host went to. Until that is freed.
struct Guard {
  size_t begin, bytes;
};
void GuardLastCopied(const std::vector<Guard>& guards);

// ---- how the stand-in uses it ------------------------------------------------------------------

using Clock = std::map<int, uint64_t>;  // stream -> how much of its work has happened before

struct Work {
  std::function<void()> run;
  std::function<bool()> ready;  // null: always
};
struct Stream {
  int id = 0;
  int device = 0;
  uint64_t put = 0, done = 0;  // pieces of work
  std::deque<Work> pending;
  Clock clock;
};
struct Event {
  std::shared_ptr<Stream> stream;  // null: not recorded
  uint64_t put = 0;
  Clock clock;
  bool asked = false;
};

// Who touches memory: a kernel or a named call.
struct Toucher {
  const char* call = nullptr;
  const void* kernel = nullptr;
};
struct Access {
  const std::byte* begin;
  const std::byte* end;
  bool writes;
  int stream;
  uint64_t at;
  Toucher toucher;
};
struct Allocation {
  std::byte* begin = nullptr;
  size_t bytes = 0;
  bool pinned = false;  // host memory
  int device = 0;
  std::vector<Guard> guards;
  std::vector<Access> accesses;
  const std::byte* end() const { return begin + bytes; }
};

inline constexpr char kLosesDevice[] = "VITSCALE_NCCL_LOSES_DEVICE";  // see nccl_standin.h

class Device {
 public:
  static Device& Get();
  // Held while anything here is used and while kernels run.
  std::recursive_mutex& mutex() { return mutex_; }

  // For the device of this thread.
  cudaError_t Allocate(size_t bytes, bool pinned, void** out);
  cudaError_t Free(void* p, bool pinned);
  Allocation* Find(const void* p);  // null: not of the device

  std::shared_ptr<Stream> Open(cudaStream_t stream);  // null handle: the default stream
  cudaStream_t NewStream();
  void DestroyStream(cudaStream_t stream);

  struct Touch {
    const void* begin;
    size_t bytes;  // 0: to the whole allocation
    bool writes;
  };
  void Put(Stream& stream, Toucher toucher, const std::vector<Touch>& touches,
           std::function<void()> run, std::function<bool()> ready = nullptr);
  bool RunUntil(Stream& stream, uint64_t put);   // false: some of it is not ready
  void WaitUntil(Stream& stream, uint64_t put);  // the same, by a call that blocks
  void Wait(Stream& stream);                     // by the host
  void WaitAll();                                // for all streams of this thread's device
  void HostSees(const Clock& clock);
  void RunKernel(const Launched& launched);
  // What a launch on this thread's device may have of dynamic shared memory.
  cudaError_t SetSharedLimit(const void* kernel, int bytes);
  size_t SharedLimit(const void* kernel) const;
  bool IsLost(int index) const {
    return lost.contains(index) && std::getenv(kLosesDevice) != nullptr;
  }
  bool HasDevice(int index) const { return index >= 0 && index < device_count; }

  const void* last_copied_to = nullptr;  // from the host
  DeviceCounts counts;
  static int& Current();                        // of this thread
  std::map<const void*, int64_t> shared_bytes;  // most, by kernel
  int fail_in = 0;
  int64_t memory_bytes = int64_t{80} << 30;
  int device_count = 1;
  std::set<int> lost;  // see nccl_standin.h

 private:
  friend void GuardLastCopied(const std::vector<Guard>& guards);
  void Check(const Stream& stream, Toucher toucher, const Touch& touch);
  void OpenMemory(bool open);
  void PoisonGuards(const Allocation& allocation);

  std::recursive_mutex mutex_;
  std::map<const std::byte*, Allocation> allocations_;  // by begin
  std::map<cudaStream_t, std::shared_ptr<Stream>> streams_;
  std::shared_ptr<Stream> default_stream_ = std::make_shared<Stream>();
  std::map<std::pair<const void*, int>, size_t> shared_limits_;  // by kernel and device
  int streams_made_ = 0;
  Clock host_;
  int running_ = 0;  // depth of RunUntil
  bool memory_open_ = false;
};

// Bytes that AddressSanitizer may hide from the host's code.
void CopyBytes(void* to, const void* from, size_t bytes);
void FillBytes(void* to, int value, size_t bytes);

absl::Status LaunchKernel(Launched launched, std::vector<cuda::host_twin::KernelArgument> arguments,
                          cudaStream_t stream);

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_DEVICE_H_
