#include "kernels/cuda/runtime/stopwatch.h"

#include <algorithm>
#include <array>

#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"

namespace vitscale::cuda {
namespace {

constexpr int kRuns = 5;

absl::StatusOr<double> SecondsBetween(const CudaEvent& begin, const CudaEvent& end) {
  float milliseconds = 0;
  VITSCALE_RETURN_IF_ERROR(
      CudaStatus(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "read a stopwatch"));
  return milliseconds * 1e-3;
}

}  // namespace

absl::StatusOr<double> MedianSecondsCold(const DeviceMemory& flush, const CudaStream& stream,
                                         const std::function<absl::Status()>& put) {
  VITSCALE_ASSIGN_OR_RETURN(const CudaEvent begin, CudaEvent::CreateTimed());
  VITSCALE_ASSIGN_OR_RETURN(const CudaEvent end, CudaEvent::CreateTimed());
  std::array<double, kRuns> seconds{};
  for (int run = -1; run < kRuns; ++run) {
    VITSCALE_RETURN_IF_ERROR(CudaStatus(
        cudaMemsetAsync(flush.data(), run & 0xff, static_cast<size_t>(flush.bytes()), stream.get()),
        "flush L2"));
    VITSCALE_RETURN_IF_ERROR(begin.Record(stream));
    VITSCALE_RETURN_IF_ERROR(put());
    VITSCALE_RETURN_IF_ERROR(end.Record(stream));
    VITSCALE_RETURN_IF_ERROR(end.Synchronize());
    VITSCALE_ASSIGN_OR_RETURN(const double once, SecondsBetween(begin, end));
    if (run >= 0) seconds[static_cast<size_t>(run)] = once;
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

}  // namespace vitscale::cuda
