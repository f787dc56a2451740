// How long work in a stream takes.

#ifndef KERNELS_CUDA_RUNTIME_STOPWATCH_H_
#define KERNELS_CUDA_RUNTIME_STOPWATCH_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stream.h"

namespace vitscale::cuda {

// The median of five runs in seconds, after one that loads the kernels. `put` puts the work into
// `stream`; before each run `flush`, which should be twice the L2 cache, is overwritten, so that
// the cache holds nothing of the operands, as in a step. Errors: of `put`, and of the stream.
absl::StatusOr<double> MedianSecondsCold(const DeviceMemory& flush, const CudaStream& stream,
                                         const std::function<absl::Status()>& put);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_RUNTIME_STOPWATCH_H_
