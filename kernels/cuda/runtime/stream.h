// Owners of a stream (work in order) and of an event (a place in it).

#ifndef KERNELS_CUDA_RUNTIME_STREAM_H_
#define KERNELS_CUDA_RUNTIME_STREAM_H_

#include <cuda_runtime_api.h>

#include <memory>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"

namespace vitscale::cuda {

// Not ordered against the default stream.
class CudaStream {
 public:
  static absl::StatusOr<CudaStream> Create() {
    cudaStream_t raw = nullptr;
    VITSCALE_RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithFlags(&raw, cudaStreamNonBlocking), "create stream"));
    return CudaStream(raw);
  }
  cudaStream_t get() const { return stream_.get(); }
  // Waits; errors of the work itself come out here.
  absl::Status Synchronize() const {
    return CudaStatus(cudaStreamSynchronize(get()), "wait for the device");
  }

 private:
  struct Destroy {
    void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
  };
  explicit CudaStream(cudaStream_t raw) : stream_(raw) {}
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy> stream_;
};

class CudaEvent {
 public:
  static absl::StatusOr<CudaEvent> Create() { return CreateWith(cudaEventDisableTiming); }
  // That cudaEventElapsedTime may ask.
  static absl::StatusOr<CudaEvent> CreateTimed() { return CreateWith(cudaEventDefault); }
  cudaEvent_t get() const { return event_.get(); }
  absl::Status Record(const CudaStream& stream) const {
    return CudaStatus(cudaEventRecord(get(), stream.get()), "record event");
  }
  // Whether the device has come past it.
  absl::StatusOr<bool> Reached() const {
    const cudaError_t error = cudaEventQuery(get());
    if (error == cudaErrorNotReady) return false;
    VITSCALE_RETURN_IF_ERROR(CudaStatus(error, "query event"));
    return true;
  }
  absl::Status Synchronize() const {
    return CudaStatus(cudaEventSynchronize(get()), "wait for the device");
  }

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { (void)cudaEventDestroy(event); }
  };
  static absl::StatusOr<CudaEvent> CreateWith(unsigned flags) {
    cudaEvent_t raw = nullptr;
    VITSCALE_RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&raw, flags), "create event"));
    return CudaEvent(raw);
  }
  explicit CudaEvent(cudaEvent_t raw) : event_(raw) {}
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy> event_;
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_RUNTIME_STREAM_H_
