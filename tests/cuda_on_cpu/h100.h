// NVIDIA H100 SXM5 80 GB, from its data sheet and the programming guide's table of compute
// capability 9.0.

#ifndef TESTS_CUDA_ON_CPU_H100_H_
#define TESTS_CUDA_ON_CPU_H100_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace vitscale::cuda_on_cpu {

cudaDeviceProp H100(int64_t memory_bytes);

// 0 and not known for what is not asked for by kernels/cuda.
int H100Attribute(cudaDeviceAttr attribute, bool* known);

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_H100_H_
