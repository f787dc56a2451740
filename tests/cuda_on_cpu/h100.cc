#include "tests/cuda_on_cpu/h100.h"

#include <cstring>

namespace vitscale::cuda_on_cpu {

cudaDeviceProp H100(int64_t memory_bytes) {
  cudaDeviceProp p;
  std::memset(&p, 0, sizeof(p));
  std::strncpy(p.name, "NVIDIA H100 80GB HBM3 (on CPU)", sizeof(p.name) - 1);
  p.totalGlobalMem = static_cast<size_t>(memory_bytes);
  p.sharedMemPerBlock = 48 * 1024;
  p.sharedMemPerBlockOptin = 227 * 1024;
  p.sharedMemPerMultiprocessor = 228 * 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.multiProcessorCount = 132;
  p.l2CacheSize = 50 * 1024 * 1024;
  p.major = 9;
  p.memoryBusWidth = 5120;
  p.unifiedAddressing = p.canMapHostMemory = p.concurrentKernels = 1;
  p.asyncEngineCount = 3;
  return p;
}

int H100Attribute(cudaDeviceAttr attribute, bool* known) {
  const cudaDeviceProp p = H100(0);
  *known = true;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      return p.major;
    case cudaDevAttrComputeCapabilityMinor:
      return p.minor;
    case cudaDevAttrMultiProcessorCount:
      return p.multiProcessorCount;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return static_cast<int>(p.sharedMemPerBlock);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return static_cast<int>(p.sharedMemPerBlockOptin);
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return static_cast<int>(p.sharedMemPerMultiprocessor);
    case cudaDevAttrL2CacheSize:
      return p.l2CacheSize;
    case cudaDevAttrMaxThreadsPerBlock:
      return p.maxThreadsPerBlock;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return p.maxThreadsPerMultiProcessor;
    case cudaDevAttrWarpSize:
      return p.warpSize;
    case cudaDevAttrClockRate:
      return 1980000;  // kHz
    case cudaDevAttrMemoryClockRate:
      return 2619000;  // kHz
    case cudaDevAttrGlobalMemoryBusWidth:
      return p.memoryBusWidth;
    case cudaDevAttrMaxRegistersPerBlock:
      return p.regsPerBlock;
    default:
      *known = false;
      return 0;
  }
}

}  // namespace vitscale::cuda_on_cpu
