#include "kernels/cuda/blas.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

// What the library's manual advises: 32 MiB from Hopper on, 4 MiB before.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int64_t kWorkspaceBytesBeforeHopper = int64_t{4} << 20;
constexpr int kCandidates = 8;
constexpr uintptr_t kAlignmentMost = 256;

absl::Status BlasStatus(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string text = absl::StrCat("cuBLASLt: ", what, ": ", cublasLtGetStatusString(status),
                                        " (", cublasLtGetStatusName(status), ")");
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return absl::UnimplementedError(text);
  return absl::InternalError(text);
}

cudaDataType DataType(DType dtype) { return dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_32F; }

cublasLtEpilogue_t Epilogue(BlasEpilogue epilogue) {
  switch (epilogue) {
    case BlasEpilogue::kNone:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case BlasEpilogue::kBias:
      return CUBLASLT_EPILOGUE_BIAS;
    case BlasEpilogue::kGelu:
      return CUBLASLT_EPILOGUE_GELU;
    case BlasEpilogue::kBiasGelu:
      return CUBLASLT_EPILOGUE_GELU_BIAS;
    case BlasEpilogue::kGeluAux:
      return CUBLASLT_EPILOGUE_GELU_AUX;
    case BlasEpilogue::kBiasGeluAux:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case BlasEpilogue::kGeluGrad:
      return CUBLASLT_EPILOGUE_DGELU;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

// The largest power of two up to 256 that divides the address.
uint32_t AlignmentOf(const void* memory) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(memory) | kAlignmentMost;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

struct DestroyLayout {
  void operator()(cublasLtMatrixLayout_t layout) const {
    (void)cublasLtMatrixLayoutDestroy(layout);
  }
};
using Layout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>, DestroyLayout>;

struct DestroyDescription {
  void operator()(cublasLtMatmulDesc_t description) const {
    (void)cublasLtMatmulDescDestroy(description);
  }
};
using Description =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, DestroyDescription>;

struct DestroyPreference {
  void operator()(cublasLtMatmulPreference_t preference) const {
    (void)cublasLtMatmulPreferenceDestroy(preference);
  }
};
using Preference =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, DestroyPreference>;

// A row-major [rows, columns] matrix as the library sees it.
absl::StatusOr<Layout> MakeLayout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayout_t raw = nullptr;
  VITSCALE_RETURN_IF_ERROR(
      BlasStatus(cublasLtMatrixLayoutCreate(&raw, DataType(dtype), static_cast<uint64_t>(columns),
                                            static_cast<uint64_t>(rows), stride),
                 "create layout"));
  return Layout(raw);
}

template <typename T>
absl::Status Set(const Description& description, cublasLtMatmulDescAttributes_t attribute,
                 const T& value) {
  return BlasStatus(
      cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof(value)),
      "describe a product");
}
template <typename T>
absl::Status Set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
                 const T& value) {
  return BlasStatus(
      cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
      "set a preference");
}

absl::StatusOr<Description> Describe(const BlasMatmul& m) {
  cublasLtMatmulDesc_t raw = nullptr;
  // Never TF32: f32 is asked for where bits matter.
  VITSCALE_RETURN_IF_ERROR(BlasStatus(
      cublasLtMatmulDescCreate(&raw, CUBLAS_COMPUTE_32F, CUDA_R_32F), "create description"));
  Description description(raw);
  const auto transposed = [](bool yes) { return yes ? CUBLAS_OP_T : CUBLAS_OP_N; };
  VITSCALE_RETURN_IF_ERROR(
      Set(description, CUBLASLT_MATMUL_DESC_TRANSA, transposed(m.transpose_b)));
  VITSCALE_RETURN_IF_ERROR(
      Set(description, CUBLASLT_MATMUL_DESC_TRANSB, transposed(m.transpose_a)));
  VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, Epilogue(m.epilogue)));
  if (m.bias != nullptr) {
    VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, m.bias));
  }
  if (m.aux != nullptr) {
    VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, m.aux));
    VITSCALE_RETURN_IF_ERROR(Set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, m.columns));
  }
  return description;
}

}  // namespace

class BoundMatmul {
 public:
  static absl::StatusOr<std::shared_ptr<BoundMatmul>> Create(const BlasMatmul& m) {
    auto bound = std::make_shared<BoundMatmul>();
    bound->matmul = m;
    VITSCALE_ASSIGN_OR_RETURN(bound->description, Describe(m));
    VITSCALE_ASSIGN_OR_RETURN(bound->a, MakeLayout(m.input, m.transpose_a ? m.inner : m.rows,
                                                   m.transpose_a ? m.rows : m.inner, m.a_stride));
    VITSCALE_ASSIGN_OR_RETURN(bound->b,
                              MakeLayout(m.input, m.transpose_b ? m.columns : m.inner,
                                         m.transpose_b ? m.inner : m.columns, m.b_stride));
    VITSCALE_ASSIGN_OR_RETURN(bound->d, MakeLayout(m.output, m.rows, m.columns, m.d_stride));
    return bound;
  }

  BlasMatmul matmul;
  Description description;
  Layout a, b, d;
  cublasLtMatmulAlgo_t algorithm{};
};

absl::StatusOr<std::unique_ptr<Blas>> Blas::Create(const DeviceLimits& limits) {
  auto blas = std::unique_ptr<Blas>(new Blas);
  cublasLtHandle_t raw = nullptr;
  VITSCALE_RETURN_IF_ERROR(BlasStatus(cublasLtCreate(&raw), "create handle"));
  blas->handle_.reset(raw);
  VITSCALE_ASSIGN_OR_RETURN(
      blas->workspace_,
      DeviceMemory::Allocate(limits.sm >= 90 ? kWorkspaceBytes : kWorkspaceBytesBeforeHopper,
                             "workspace of cuBLASLt"));
  return blas;
}

Blas::~Blas() = default;

Blas::Key Blas::KeyOf(const BlasMatmul& m) {
  return {m.rows,
          m.columns,
          m.inner,
          m.transpose_a,
          m.transpose_b,
          m.a_stride,
          m.b_stride,
          m.d_stride,
          static_cast<int64_t>(m.input) * 8 + static_cast<int64_t>(m.output),
          static_cast<int64_t>(m.epilogue),
          m.add,
          AlignmentOf(m.a),
          AlignmentOf(m.b),
          AlignmentOf(m.add ? m.c : m.d),
          AlignmentOf(m.d),
          AlignmentOf(m.bias) * 512 + AlignmentOf(m.aux)};
}

absl::StatusOr<cublasLtMatmulAlgo_t> Blas::Choose(const BoundMatmul& bound) const {
  const BlasMatmul& m = bound.matmul;
  cublasLtMatmulPreference_t raw = nullptr;
  VITSCALE_RETURN_IF_ERROR(BlasStatus(cublasLtMatmulPreferenceCreate(&raw), "create preference"));
  const Preference preference(raw);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return Set(preference, attribute, value);
  };
  VITSCALE_RETURN_IF_ERROR(
      set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_.bytes())));
  // Parts of a sum are kept in f32 and added in a step of their own, in order.
  VITSCALE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                               static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)));
  VITSCALE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(m.b)));
  VITSCALE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(m.a)));
  VITSCALE_RETURN_IF_ERROR(
      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(m.add ? m.c : m.d)));
  VITSCALE_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(m.d)));
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results{};
  int count = 0;
  VITSCALE_RETURN_IF_ERROR(BlasStatus(
      cublasLtMatmulAlgoGetHeuristic(handle_.get(), bound.description.get(), bound.b.get(),
                                     bound.a.get(), bound.d.get(), bound.d.get(), preference.get(),
                                     kCandidates, results.data(), &count),
      "look for algorithms"));
  for (int i = 0; i < count; ++i) {
    if (results[i].state == CUBLAS_STATUS_SUCCESS) return results[i].algo;
  }
  return absl::UnimplementedError("cuBLASLt has no algorithm");
}

absl::StatusOr<std::shared_ptr<const BoundMatmul>> Blas::Bind(const BlasMatmul& matmul) {
  VITSCALE_ASSIGN_OR_RETURN(std::shared_ptr<BoundMatmul> bound, BoundMatmul::Create(matmul));
  const Key key = KeyOf(matmul);
  auto found = algorithms_.find(key);
  if (found == algorithms_.end()) {
    VITSCALE_ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t chosen, Choose(*bound));
    found = algorithms_.emplace(key, chosen).first;
  }
  bound->algorithm = found->second;
  return std::shared_ptr<const BoundMatmul>(std::move(bound));
}

absl::Status Blas::Run(const BoundMatmul& bound, cudaStream_t stream) const {
  const BlasMatmul& m = bound.matmul;
  const float one = 1.0f, beta = m.add ? 1.0f : 0.0f;
  return BlasStatus(
      cublasLtMatmul(handle_.get(), bound.description.get(), &one, m.b, bound.b.get(), m.a,
                     bound.a.get(), &beta, m.add ? m.c : m.d, bound.d.get(), m.d, bound.d.get(),
                     &bound.algorithm, workspace_.data(), static_cast<size_t>(workspace_.bytes()),
                     stream),
      absl::StrCat("multiply [", m.rows, ", ", m.inner, "] by [", m.inner, ", ", m.columns, "]"));
}

std::string Blas::version() const {
  const size_t version = cublasLtGetVersion();
  return absl::StrCat("cuBLASLt ", version / 10000, ".", version / 100 % 100);
}

}  // namespace vitscale::cuda
