// The part of cuBLASLt that kernels/cuda uses, under its own symbols: descriptors are taken as they
// are given (cublaslt_descriptors), what the library's header forbids is refused (cublaslt_rules),
// and products are made in f32 in the order of k (cublaslt_product).
//
// Not imitated: which shapes the vendor's heuristics have an algorithm for, split sums, and speed.

#include "tests/cuda_on_cpu/cublaslt_standin.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/cuda_on_cpu/cublaslt_descriptors.h"
#include "tests/cuda_on_cpu/cublaslt_product.h"
#include "tests/cuda_on_cpu/cublaslt_rules.h"
#include "tests/cuda_on_cpu/device.h"

namespace vitscale::cuda_on_cpu {
namespace {

int offered_algorithms = 1;

}  // namespace

void OfferAlgorithms(int count) { offered_algorithms = count; }

namespace blas {
namespace {

// What an algorithm was chosen for; kept in its opaque words.
struct Algorithm {
  uint32_t magic;
  uint32_t alignments[4];  // of A, B, C, D
};
constexpr uint32_t kMagic = 0x76697473;

cublasStatus_t CheckAlgorithm(const cublasLtMatmulAlgo_t* algo, const Task& task) {
  Algorithm algorithm;
  std::memcpy(&algorithm, algo, sizeof(algorithm));
  if (algorithm.magic != kMagic) return Invalid("the algorithm was not chosen by this library");
  const void* operands[] = {task.a, task.b, task.beta != 0 ? task.c : task.d, task.d};
  for (int i = 0; i < 4; ++i) {
    if (reinterpret_cast<uintptr_t>(operands[i]) % algorithm.alignments[i] != 0) {
      return Invalid(absl::StrCat("operand ", i, " is not aligned to ", algorithm.alignments[i],
                                  " bytes as the preference said"));
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace
}  // namespace blas
}  // namespace vitscale::cuda_on_cpu

// ---- the library's functions -------------------------------------------------------------------

using namespace vitscale::cuda_on_cpu;        // NOLINT: this file is the library
using namespace vitscale::cuda_on_cpu::blas;  // NOLINT

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "unknown";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : LastBlasRefusal();
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  if (type != CUDA_R_16BF && type != CUDA_R_32F) return Invalid("type is neither bf16 nor f32");
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
      new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &Opened(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  auto* made = new Description;
  made->compute = compute;
  made->scale = scale;
  *description = reinterpret_cast<cublasLtMatmulDesc_t>(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete &Opened(description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, size_t bytes) {
  return Opened(description).Set(attribute, from, bytes, AttributeBytes(attribute));
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Attributes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete &Opened(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* from, size_t bytes) {
  return Opened(preference).Set(attribute, from, bytes, AttributeBytes(attribute));
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t /*handle*/,
                                              cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* count) {
  *count = 0;
  if (requested < 1) return Invalid("no algorithm is requested");
  const cublasStatus_t status =
      Check({Opened(description), Opened(a), Opened(b), Opened(c), Opened(d)});
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Attributes& wanted = Opened(preference);
  const auto alignment = [&](int attribute) { return wanted.Get<uint32_t>(attribute, 256); };
  const Algorithm algorithm{kMagic,
                            {alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES),
                             alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES),
                             alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES),
                             alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)}};
  *count = std::min(requested, offered_algorithms);
  for (int i = 0; i < *count; ++i) {
    results[i] = {};
    std::memcpy(&results[i].algo, &algorithm, sizeof(algorithm));
    results[i].state = CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t /*handle*/,
                                       cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
  Algorithm algorithm;
  std::memcpy(&algorithm, algo, sizeof(algorithm));
  if (algorithm.magic != kMagic) return Invalid("the algorithm was not chosen by this library");
  *result = {};
  return Check({Opened(description), Opened(a), Opened(b), Opened(c), Opened(d)});
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t description,
                              const void* alpha, const void* A, cublasLtMatrixLayout_t a,
                              const void* B, cublasLtMatrixLayout_t b, const void* beta,
                              const void* C, cublasLtMatrixLayout_t c, void* D,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t handle) {
  Device& device = Device::Get();
  const std::lock_guard lock(device.mutex());
  const Product product{Opened(description), Opened(a), Opened(b), Opened(c), Opened(d)};
  if (const cublasStatus_t status = Check(product); status != CUBLAS_STATUS_SUCCESS) return status;
  const Task task{product.description,
                  product.a,
                  product.b,
                  product.c,
                  product.d,
                  *static_cast<const float*>(alpha),
                  *static_cast<const float*>(beta),
                  A,
                  B,
                  C,
                  D};
  if (C == D && product.c != product.d) return Invalid("C is D, but their layouts differ");
  if (const cublasStatus_t status = CheckAlgorithm(algo, task); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  const std::vector<Range> ranges = task.Ranges(workspace, workspace_bytes);
  if (const cublasStatus_t status = CheckRanges(ranges); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  std::vector<Device::Touch> touches;
  for (const Range& range : ranges) {
    touches.push_back({range.begin, static_cast<size_t>(range.bytes), range.writes});
  }
  device.Put(*device.Open(handle), {"cublasLtMatmul", nullptr}, touches, [task] { task.Run(); });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
