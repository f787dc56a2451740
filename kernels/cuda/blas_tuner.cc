#include "kernels/cuda/blas_tuner.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>

#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stream.h"

namespace vitscale::cuda {
namespace {

constexpr int kRuns = 5;
constexpr int kFill = 0x3c;  // bf16 and f32 of this byte are 0.0115: no infinities, no denormals

int64_t StoredBytes(int64_t rows, int64_t stride, DType dtype) {
  return AlignUp(rows * stride * DTypeBytes(dtype), 256);
}

// `matmul` with operands of its own behind each other in `memory`, or how many bytes they take.
struct Playground {
  explicit Playground(const BlasMatmul& m)
      : a(StoredBytes(m.transpose_a ? m.inner : m.rows, m.a_stride, m.input)),
        b(StoredBytes(m.transpose_b ? m.columns : m.inner, m.b_stride, m.input)),
        d(StoredBytes(m.rows, m.d_stride, m.output)),
        bias(m.bias == nullptr ? 0 : StoredBytes(1, m.columns, m.output)),
        aux(m.aux == nullptr ? 0 : StoredBytes(m.rows, m.columns, m.output)) {}
  int64_t bytes() const { return a + b + d + bias + aux; }
  BlasMatmul Place(BlasMatmul m, std::byte* memory) const {
    m.a = memory;
    m.b = memory + a;
    m.d = memory + a + b;
    m.c = m.d;
    if (bias > 0) m.bias = memory + a + b + d;
    if (aux > 0) m.aux = memory + a + b + d + bias;
    return m;
  }

  int64_t a, b, d, bias, aux;
};

class Stopwatch {
 public:
  static absl::StatusOr<Stopwatch> Create() {
    VITSCALE_ASSIGN_OR_RETURN(CudaEvent begin, CudaEvent::CreateTimed());
    VITSCALE_ASSIGN_OR_RETURN(CudaEvent end, CudaEvent::CreateTimed());
    return Stopwatch(std::move(begin), std::move(end));
  }
  absl::Status Begin(const CudaStream& stream) const { return begin_.Record(stream); }
  absl::StatusOr<double> End(const CudaStream& stream) const {
    VITSCALE_RETURN_IF_ERROR(end_.Record(stream));
    VITSCALE_RETURN_IF_ERROR(end_.Synchronize());
    float milliseconds = 0;
    VITSCALE_RETURN_IF_ERROR(CudaStatus(
        cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "read a stopwatch"));
    return milliseconds * 1e-3;
  }

 private:
  Stopwatch(CudaEvent begin, CudaEvent end) : begin_(std::move(begin)), end_(std::move(end)) {}
  CudaEvent begin_, end_;
};

// Infinity for an algorithm that does not run.
absl::StatusOr<double> MedianSeconds(const BoundMatmul& matmul,
                                     const cublasLtMatmulAlgo_t& algorithm, cublasLtHandle_t handle,
                                     const BlasWorkspace& workspace, const DeviceMemory& flush,
                                     const CudaStream& stream) {
  VITSCALE_ASSIGN_OR_RETURN(const Stopwatch watch, Stopwatch::Create());
  std::array<double, kRuns> seconds;
  for (int run = -1; run < kRuns; ++run) {  // the first loads the kernel
    VITSCALE_RETURN_IF_ERROR(CudaStatus(
        cudaMemsetAsync(flush.data(), run & 0xff, static_cast<size_t>(flush.bytes()), stream.get()),
        "flush L2"));
    VITSCALE_RETURN_IF_ERROR(watch.Begin(stream));
    if (matmul.Run(handle, algorithm, workspace, stream.get()) != CUBLAS_STATUS_SUCCESS) {
      return std::numeric_limits<double>::infinity();
    }
    VITSCALE_ASSIGN_OR_RETURN(const double once, watch.End(stream));
    if (run >= 0) seconds[static_cast<size_t>(run)] = once;
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

}  // namespace

absl::StatusOr<size_t> FastestOf(const std::vector<cublasLtMatmulAlgo_t>& candidates,
                                 const BlasMatmul& matmul, cublasLtHandle_t handle,
                                 const BlasWorkspace& workspace, int64_t l2_bytes) {
  const Playground playground(matmul);
  VITSCALE_ASSIGN_OR_RETURN(const DeviceMemory memory,
                            DeviceMemory::Allocate(playground.bytes(), "operands to measure with"));
  VITSCALE_ASSIGN_OR_RETURN(const DeviceMemory flush,
                            DeviceMemory::Allocate(2 * l2_bytes, "memory to flush L2 with"));
  VITSCALE_ASSIGN_OR_RETURN(const CudaStream stream, CudaStream::Create());
  VITSCALE_RETURN_IF_ERROR(CudaStatus(
      cudaMemsetAsync(memory.data(), kFill, static_cast<size_t>(memory.bytes()), stream.get()),
      "fill operands"));
  VITSCALE_ASSIGN_OR_RETURN(const std::shared_ptr<BoundMatmul> bound,
                            BoundMatmul::Create(playground.Place(matmul, memory.data())));
  size_t fastest = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < candidates.size(); ++i) {
    VITSCALE_ASSIGN_OR_RETURN(const double seconds, MedianSeconds(*bound, candidates[i], handle,
                                                                  workspace, flush, stream));
    if (seconds < least) fastest = i;
    least = std::min(least, seconds);
  }
  VITSCALE_RETURN_IF_ERROR(stream.Synchronize());
  return fastest;
}

}  // namespace vitscale::cuda
