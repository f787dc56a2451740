// The one place that knows which backends exist.

#ifndef KERNELS_BACKEND_FACTORY_H_
#define KERNELS_BACKEND_FACTORY_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace vitscale {

struct BackendOptions {
  std::string device = "cpu";      // "cpu" or "cuda:<index>"; the latter is UNIMPLEMENTED until kernels/cuda exists
  int threads = 0;                 // 0: all cores this process may run on
  bool bf16 = false;               // compute dtype of programs to come: bf16 or f32
  // Packed copies of weights are made before each use into one small buffer, not kept: less memory,
  // more work for every micro-batch, the same bits.
  bool packed_per_use = false;
  std::string instruction_set;     // empty: the best this machine has; "avx2", "avx512", "avx512_bf16" force a lower one
};

// INVALID_ARGUMENT for an unknown device or an instruction set that this machine lacks.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

// What CreateBackend would choose, without creating anything.
BackendInfo DescribeCpu(const BackendOptions& options);

}  // namespace vitscale

#endif  // KERNELS_BACKEND_FACTORY_H_
