// Device memory of a test of the layer, through the runtime's own calls.

#ifndef TESTS_CUDA_ON_CPU_DEVICE_BUFFER_H_
#define TESTS_CUDA_ON_CPU_DEVICE_BUFFER_H_

#include <cuda_runtime_api.h>

#include <vector>

#include "kernels/base/status.h"

namespace vitscale::cuda_on_cpu {

template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t count) : count_(count) {
    void* raw = nullptr;
    VITSCALE_CHECK(cudaMalloc(&raw, count * sizeof(T)) == cudaSuccess);
    data_ = static_cast<T*>(raw);
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    VITSCALE_CHECK(cudaMemcpy(data_, values.data(), values.size() * sizeof(T),
                              cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~Buffer() { (void)cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() const { return data_; }
  // After the default stream; who uses another one waits for it first.
  std::vector<T> Values() const {
    std::vector<T> values(count_);
    VITSCALE_CHECK(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost) ==
                   cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_DEVICE_BUFFER_H_
