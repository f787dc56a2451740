#include "kernels/cuda/blas.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/hash.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/cuda/blas_matmul.h"
#include "kernels/cuda/blas_tuner.h"

namespace vitscale::cuda {
namespace {

// What the library's manual advises: 32 MiB from Hopper on, 4 MiB before.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int64_t kWorkspaceBytesBeforeHopper = int64_t{4} << 20;
constexpr int kCandidates = 8;
constexpr uintptr_t kAlignmentMost = kTensorAlignment;

// The largest power of two that divides the address, up to what every tensor has: the choice must
// not depend on where a plan put a tensor. Plans of other levels of recompute put them elsewhere
// and are to give the same bits.
uint32_t AlignmentOf(const void* memory) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(memory) | kAlignmentMost;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

struct DestroyPreference {
  void operator()(cublasLtMatmulPreference_t preference) const {
    (void)cublasLtMatmulPreferenceDestroy(preference);
  }
};
using Preference =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, DestroyPreference>;

template <typename T>
absl::Status Set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
                 const T& value) {
  return BlasStatus(
      cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
      "set a preference");
}

MatmulKey KeyOf(const BlasMatmul& m) {
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

template <typename T>
absl::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// "NVIDIA H100 80GB HBM3, driver 580.159.04, cuBLASLt 130100"
std::string MachineOf(const Device& device) {
  return absl::StrCat(device.name, ", driver ", DriverVersion(), ", cuBLASLt ",
                      cublasLtGetVersion());
}

}  // namespace

uint64_t ChoiceOf(const BoundMatmul& bound) {
  return CombineHash(Hash64(BytesOf(KeyOf(bound.matmul))), Hash64(BytesOf(bound.algorithm.data)));
}

Blas::Blas(const Device& device)
    : l2_bytes_(device.limits.l2_bytes), cache_(AlgorithmCache::OfProcess(MachineOf(device))) {}

absl::StatusOr<std::unique_ptr<Blas>> Blas::Create(const Device& device) {
  auto blas = std::unique_ptr<Blas>(new Blas(device));
  cublasLtHandle_t raw = nullptr;
  VITSCALE_RETURN_IF_ERROR(BlasStatus(cublasLtCreate(&raw), "create handle"));
  blas->handle_.reset(raw);
  VITSCALE_ASSIGN_OR_RETURN(
      blas->workspace_,
      DeviceMemory::Allocate(device.limits.sm >= 90 ? kWorkspaceBytes : kWorkspaceBytesBeforeHopper,
                             "workspace of cuBLASLt"));
  return blas;
}

Blas::~Blas() = default;

absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> Blas::Candidates(const BoundMatmul& bound) const {
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
  std::vector<cublasLtMatmulAlgo_t> candidates;
  for (int i = 0; i < count; ++i) {
    if (results[i].state == CUBLAS_STATUS_SUCCESS) candidates.push_back(results[i].algo);
  }
  if (candidates.empty()) return absl::UnimplementedError("cuBLASLt has no algorithm");
  return candidates;
}

// One that an earlier process or program chose, if the library still takes it.
const cublasLtMatmulAlgo_t* Blas::Known(const BoundMatmul& bound, const MatmulKey& key) {
  if (const auto found = algorithms_.find(key); found != algorithms_.end()) return &found->second;
  const std::optional<cublasLtMatmulAlgo_t> cached = cache_.Find(key);
  if (!cached.has_value()) return nullptr;
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle_.get(), bound.description.get(), bound.b.get(), bound.a.get(),
                              bound.d.get(), bound.d.get(), &*cached, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > workspace().bytes) return nullptr;
  return &algorithms_.emplace(key, *cached).first->second;
}

absl::StatusOr<cublasLtMatmulAlgo_t> Blas::Choose(const BoundMatmul& bound, const MatmulKey& key) {
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<cublasLtMatmulAlgo_t> candidates, Candidates(bound));
  if (candidates.size() == 1) return candidates.front();
  const absl::StatusOr<size_t> fastest =
      FastestOf(candidates, bound.matmul, handle_.get(), workspace(), l2_bytes_);
  // No memory left to measure in: the library's own first choice, for this process only.
  if (absl::IsResourceExhausted(fastest.status())) return candidates.front();
  VITSCALE_RETURN_IF_ERROR(fastest.status());
  cache_.Add(key, candidates[*fastest]);
  return candidates[*fastest];
}

absl::StatusOr<std::shared_ptr<const BoundMatmul>> Blas::Bind(const BlasMatmul& matmul) {
  VITSCALE_ASSIGN_OR_RETURN(std::shared_ptr<BoundMatmul> bound, BoundMatmul::Create(matmul));
  const MatmulKey key = KeyOf(matmul);
  if (const cublasLtMatmulAlgo_t* known = Known(*bound, key); known != nullptr) {
    bound->algorithm = *known;
  } else {
    VITSCALE_ASSIGN_OR_RETURN(bound->algorithm, Choose(*bound, key));
    algorithms_[key] = bound->algorithm;
  }
  return std::shared_ptr<const BoundMatmul>(std::move(bound));
}

absl::Status Blas::Run(const BoundMatmul& bound, cudaStream_t stream) const {
  const BlasMatmul& m = bound.matmul;
  return BlasStatus(
      bound.Run(handle_.get(), bound.algorithm, workspace(), stream),
      absl::StrCat("multiply [", m.rows, ", ", m.inner, "] by [", m.inner, ", ", m.columns, "]"));
}

void Blas::FinishPrepare() {
  const absl::Status saved = cache_.SaveIfChanged(cache_.DefaultPath());
  if (!saved.ok()) {
    VITSCALE_LOG(WARNING) << "algorithms of cuBLASLt are measured again next time: "
                          << saved.message();
  }
}

BlasWorkspace Blas::workspace() const {
  return {workspace_.data(), static_cast<size_t>(workspace_.bytes())};
}

std::string Blas::version() const {
  const size_t version = cublasLtGetVersion();
  return absl::StrCat("cuBLASLt ", version / 10000, ".", version / 100 % 100);
}

}  // namespace vitscale::cuda
