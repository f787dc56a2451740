// The part of libcudart that kernels/cuda uses, under its own symbols: sources link unchanged.

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/device.h"
#include "tests/cuda_on_cpu/fault.h"
#include "tests/cuda_on_cpu/h100.h"
#include "tests/cuda_on_cpu/sanitizer.h"

namespace vitscale::cuda_on_cpu {
namespace {

// cuDNN is not faked, and a real one must not get addresses of this device.
[[maybe_unused]] const int without_cudnn = setenv("VITSCALE_CUDNN", "off", /*overwrite=*/0);

std::unique_lock<std::recursive_mutex> Lock() {
  return std::unique_lock<std::recursive_mutex>(Device::Get().mutex());
}

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t Remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

Event& Opened(cudaEvent_t event) { return *reinterpret_cast<Event*>(event); }

// The whole range must lie in one allocation of the device, or be the host's.
bool OnDevice(const char* call, const void* p, size_t bytes) {
  const Allocation* allocation = Device::Get().Find(p);
  if (allocation == nullptr) return false;
  if (static_cast<const std::byte*>(p) + bytes > allocation->end()) {
    Fault(absl::StrCat(call, ": ", bytes, " bytes at byte ",
                       static_cast<const std::byte*>(p) - allocation->begin, " of ",
                       allocation->bytes));
  }
  return !allocation->pinned;
}
bool Pinned(const void* p) {
  const Allocation* allocation = Device::Get().Find(p);
  return allocation != nullptr && allocation->pinned;
}
void CheckHost(const char* call, const void* p, size_t bytes) {
  if (FirstPoisoned(p, bytes) != nullptr) {
    Fault(absl::StrCat(call, ": ", bytes, " bytes of host memory reach outside of a buffer"));
  }
}

cudaMemcpyKind KindOf(bool to_device, bool from_device) {
  if (to_device) return from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
  return from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
}

// Memory that is not pinned is read before the call returns, and written before it returns: what
// the runtime does with pageable memory.
cudaError_t Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t handle) {
  constexpr const char* kCall = "cudaMemcpyAsync";
  if (bytes == 0) return cudaSuccess;
  Device& device = Device::Get();
  const bool to_device = OnDevice(kCall, to, bytes), from_device = OnDevice(kCall, from, bytes);
  if (kind != cudaMemcpyDefault && kind != KindOf(to_device, from_device)) {
    Fault(absl::StrCat(kCall, ": kind ", static_cast<int>(kind), ", but the pointers say ",
                       static_cast<int>(KindOf(to_device, from_device))));
  }
  if (!to_device) CheckHost(kCall, to, bytes);
  if (!from_device) CheckHost(kCall, from, bytes);
  const std::shared_ptr<Stream> stream = device.Open(handle);
  const void* source = from;
  std::shared_ptr<std::byte> snapshot;
  if (!from_device && !Pinned(from)) {
    snapshot.reset(new std::byte[bytes], std::default_delete<std::byte[]>());
    CopyBytes(snapshot.get(), from, bytes);
    source = snapshot.get();
  }
  if (to_device && !from_device) device.last_copied_to = to;
  const bool hide = Pinned(to);  // until the copy is done
  if (hide) Poison(to, bytes);
  device.Put(*stream, {kCall, nullptr}, {{from, bytes, false}, {to, bytes, true}},
             [to, source, bytes, hide, snapshot] {
               if (hide) Unpoison(to, bytes);
               CopyBytes(to, source, bytes);
             });
  if (!to_device && !Pinned(to)) device.Wait(*stream);
  return cudaSuccess;
}

cudaError_t Fill(void* to, int value, size_t bytes, cudaStream_t handle) {
  if (bytes == 0) return cudaSuccess;
  if (!OnDevice("cudaMemsetAsync", to, bytes)) {
    Fault("cudaMemsetAsync of memory that is not the device's");
  }
  Device& device = Device::Get();
  device.Put(*device.Open(handle), {"cudaMemsetAsync", nullptr}, {{to, bytes, true}},
             [=] { FillBytes(to, value, bytes); });
  return cudaSuccess;
}

}  // namespace
}  // namespace vitscale::cuda_on_cpu

using namespace vitscale::cuda_on_cpu;  // NOLINT: the symbols below are C's

extern "C" {

// ---- errors and devices ------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return "unknown error";
  }
}
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = Device::Get().device_count;
  return Remember(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (!Device::Get().HasDevice(device)) return Remember(cudaErrorInvalidDevice);
  Device::Current() = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = Device::Current();
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!Device::Get().HasDevice(device)) return Remember(cudaErrorInvalidDevice);
  *properties = H100(Device::Get().memory_bytes);
  properties->uuid.bytes[15] = static_cast<char>(device);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!Device::Get().HasDevice(device)) return Remember(cudaErrorInvalidDevice);
  bool known = false;
  *value = H100Attribute(attribute, &known);
  return Remember(known ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const auto lock = Lock();
  *total = static_cast<size_t>(Device::Get().memory_bytes);
  *free = *total - static_cast<size_t>(Device::Get().counts.live_bytes);
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  std::memset(attributes, 0, sizeof(*attributes));
  attributes->maxThreadsPerBlock = 1024;
  attributes->binaryVersion = attributes->ptxVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const auto lock = Lock();
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  return Remember(Device::Get().SetSharedLimit(function, value));
}

// ---- memory ------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** p, size_t bytes) {
  const auto lock = Lock();
  return Remember(Device::Get().Allocate(bytes, /*pinned=*/false, p));
}
cudaError_t cudaFree(void* p) {
  const auto lock = Lock();
  return Remember(Device::Get().Free(p, /*pinned=*/false));
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned flags) {
  const auto lock = Lock();
  return Remember(Device::Get().Allocate(bytes, /*pinned=*/true, p));
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }
cudaError_t cudaFreeHost(void* p) {
  const auto lock = Lock();
  return Remember(Device::Get().Free(p, /*pinned=*/true));
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const auto lock = Lock();
  return Copy(to, from, bytes, kind, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const auto lock = Lock();
  const cudaError_t error = Copy(to, from, bytes, kind, nullptr);
  Device::Get().Wait(*Device::Get().Open(nullptr));
  return error;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const auto lock = Lock();
  return Fill(to, value, bytes, stream);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  const auto lock = Lock();
  return Fill(to, value, bytes, nullptr);
}

// ---- streams and events ------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const auto lock = Lock();
  if (flags != cudaStreamNonBlocking) {
    Fault("a stream that waits for the default stream; make it with cudaStreamNonBlocking");
  }
  if (Device::Get().IsLost(Device::Current())) return Remember(cudaErrorLaunchFailure);
  *stream = Device::Get().NewStream();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const auto lock = Lock();
  Device::Get().DestroyStream(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const auto lock = Lock();
  Device::Get().Wait(*Device::Get().Open(stream));
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const auto lock = Lock();
  Device::Get().WaitAll();
  return cudaSuccess;
}
// Not ready when first asked, then done: whoever polls must ask again.
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const auto lock = Lock();
  const std::shared_ptr<Stream> stream = Device::Get().Open(handle);
  if (stream->done == stream->put) {
    Device::Get().Wait(*stream);
    return cudaSuccess;
  }
  Device::Get().RunUntil(*stream, stream->put);
  return cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &Opened(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  const auto lock = Lock();
  Event& event = Opened(handle);
  event.stream = Device::Get().Open(stream_handle);
  Device::Get().Put(*event.stream, {"cudaEventRecord", nullptr}, {}, [] {});
  event.put = event.stream->put;
  event.clock = event.stream->clock;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
  const auto lock = Lock();
  const Event event = Opened(handle);
  if (event.stream == nullptr) return cudaSuccess;
  Stream& stream = *Device::Get().Open(stream_handle);
  for (const auto& [id, at] : event.clock) stream.clock[id] = std::max(stream.clock[id], at);
  Device::Get().Put(
      stream, {"cudaStreamWaitEvent", nullptr}, {}, [] {},
      [event] { return Device::Get().RunUntil(*event.stream, event.put); });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const auto lock = Lock();
  const Event& event = Opened(handle);
  if (event.stream == nullptr) return cudaSuccess;
  Device::Get().WaitUntil(*event.stream, event.put);
  Device::Get().HostSees(event.clock);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  const auto lock = Lock();
  const Event& event = Opened(handle);
  if (event.stream == nullptr) return cudaSuccess;
  const bool done = event.stream->done >= event.put;
  Device::Get().RunUntil(*event.stream, event.put);
  if (!done) return cudaErrorNotReady;
  Device::Get().HostSees(event.clock);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;  // time means nothing here
  return cudaSuccess;
}

}  // extern "C"
