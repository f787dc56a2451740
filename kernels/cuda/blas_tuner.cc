#include "kernels/cuda/blas_tuner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "kernels/base/status.h"
#include "kernels/cuda/runtime/cuda_status.h"
#include "kernels/cuda/runtime/memory.h"
#include "kernels/cuda/runtime/stopwatch.h"
#include "kernels/cuda/runtime/stream.h"

namespace vitscale::cuda {
namespace {

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

// Infinity for an algorithm that does not run.
absl::StatusOr<double> MedianSeconds(const BoundMatmul& matmul,
                                     const cublasLtMatmulAlgo_t& algorithm, cublasLtHandle_t handle,
                                     const BlasWorkspace& workspace, const DeviceMemory& flush,
                                     const CudaStream& stream) {
  bool runs = true;
  const absl::StatusOr<double> seconds = MedianSecondsCold(flush, stream, [&] {
    const cublasStatus_t status = matmul.Run(handle, algorithm, workspace, stream.get());
    runs = status == CUBLAS_STATUS_SUCCESS;
    return BlasStatus(status, "run an algorithm");
  });
  if (!runs) return std::numeric_limits<double>::infinity();
  return seconds;
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
  if (std::isinf(least)) return absl::UnimplementedError("cuBLASLt has no algorithm that runs");
  return fastest;
}

}  // namespace vitscale::cuda
