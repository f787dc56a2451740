#include "kernels/cuda/cudnn/sdpa_graph.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale::cuda {
namespace {

constexpr int64_t kAlignmentBytes =
    16;  // of q, k, v and out at any head dim that is a multiple of 8
constexpr int kCandidatesMost = 8;

// Names of the tensors in the graph; those of the arguments of Run.
enum TensorId : int64_t { kQ = 1, kK, kV, kOut, kLogSumExp, kScale };
constexpr std::array<int64_t, 6> kIds = {kQ, kK, kV, kOut, kLogSumExp, kScale};

using Extents = std::array<int64_t, 4>;

struct TensorSpec {
  TensorId id;
  cudnnDataType_t dtype;
  Extents extents, strides;
};

std::vector<TensorSpec> Tensors(const AttentionSize& s) {
  const Extents rows = {s.batch, s.heads, s.tokens, s.head_dim};
  const int64_t in = 3 * s.width();
  const Extents packed = {in * s.tokens, s.head_dim, in, 1};
  return {{kQ, CUDNN_DATA_BFLOAT16, rows, packed},
          {kK, CUDNN_DATA_BFLOAT16, rows, packed},
          {kV, CUDNN_DATA_BFLOAT16, rows, packed},
          {kOut, CUDNN_DATA_BFLOAT16, rows, {s.width() * s.tokens, s.head_dim, s.width(), 1}},
          {kLogSumExp,
           CUDNN_DATA_FLOAT,
           {s.batch, s.heads, s.tokens, 1},
           {s.heads * s.tokens, s.tokens, 1, 1}},
          {kScale, CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}}};
}

cudnnBackendAttributeName_t OperandOf(TensorId id) {
  switch (id) {
    case kQ:
      return CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC;
    case kK:
      return CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC;
    case kV:
      return CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC;
    case kOut:
      return CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC;
    case kLogSumExp:
      return CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC;
    case kScale:
      break;
  }
  return CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC;
}

absl::StatusOr<CudnnDescriptor> MakeTensor(const CudnnLibrary& library, const TensorSpec& spec) {
  VITSCALE_ASSIGN_OR_RETURN(CudnnDescriptor tensor,
                            CudnnDescriptor::Create(library, CUDNN_BACKEND_TENSOR_DESCRIPTOR));
  const int64_t id = spec.id;
  const bool by_value = spec.id == kScale;
  const int64_t alignment = spec.dtype == CUDNN_DATA_FLOAT ? sizeof(float) : kAlignmentBytes;
  VITSCALE_RETURN_IF_ERROR(
      tensor.Set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &spec.dtype));
  VITSCALE_RETURN_IF_ERROR(
      tensor.Set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, spec.extents.data()));
  VITSCALE_RETURN_IF_ERROR(
      tensor.Set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, spec.strides.data()));
  VITSCALE_RETURN_IF_ERROR(tensor.Set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id));
  VITSCALE_RETURN_IF_ERROR(
      tensor.Set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment));
  VITSCALE_RETURN_IF_ERROR(
      tensor.Set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value));
  VITSCALE_RETURN_IF_ERROR(tensor.Finalize("describe a tensor of attention"));
  return tensor;
}

// Adds the tensors and the operation to `parts`.
absl::Status AddOperation(const CudnnLibrary& library, const AttentionSize& size,
                          std::vector<CudnnDescriptor>& parts) {
  VITSCALE_ASSIGN_OR_RETURN(
      CudnnDescriptor operation,
      CudnnDescriptor::Create(library, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR));
  for (const TensorSpec& spec : Tensors(size)) {
    VITSCALE_ASSIGN_OR_RETURN(CudnnDescriptor tensor, MakeTensor(library, spec));
    VITSCALE_RETURN_IF_ERROR(operation.SetDescriptor(OperandOf(spec.id), tensor));
    parts.push_back(std::move(tensor));
  }
  VITSCALE_RETURN_IF_ERROR(operation.Finalize("describe attention"));
  parts.push_back(std::move(operation));
  return absl::OkStatus();
}

// The graph of the operation at the end of `parts`, added to them.
absl::Status AddGraph(const CudnnLibrary& library, const SdpaTarget& target,
                      std::vector<CudnnDescriptor>& parts) {
  VITSCALE_ASSIGN_OR_RETURN(
      CudnnDescriptor graph,
      CudnnDescriptor::Create(library, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR));
  VITSCALE_RETURN_IF_ERROR(graph.SetDescriptor(CUDNN_ATTR_OPERATIONGRAPH_OPS, parts.back()));
  if (target.handle != nullptr) {
    VITSCALE_RETURN_IF_ERROR(
        graph.Set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle));
  }
  VITSCALE_RETURN_IF_ERROR(graph.Finalize("make the graph of attention"));
  parts.push_back(std::move(graph));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<CudnnDescriptor>> Candidates(const CudnnLibrary& library,
                                                        const CudnnDescriptor& graph,
                                                        const SdpaTarget& target) {
  VITSCALE_ASSIGN_OR_RETURN(CudnnDescriptor heuristics,
                            CudnnDescriptor::Create(library, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR));
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  VITSCALE_RETURN_IF_ERROR(heuristics.SetDescriptor(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph));
  VITSCALE_RETURN_IF_ERROR(
      heuristics.SetDescriptor(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target.properties));
  VITSCALE_RETURN_IF_ERROR(
      heuristics.Set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode));
  VITSCALE_RETURN_IF_ERROR(heuristics.Finalize("ask for ways to run attention"));
  std::vector<CudnnDescriptor> candidates;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int i = 0; i < kCandidatesMost; ++i) {
    VITSCALE_ASSIGN_OR_RETURN(CudnnDescriptor candidate,
                              CudnnDescriptor::Create(library, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    raw.push_back(candidate.get());
    candidates.push_back(std::move(candidate));
  }
  int64_t count = 0;
  VITSCALE_RETURN_IF_ERROR(
      library.ToStatus(library.BackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, kCandidatesMost,
                                                   &count, raw.data()),
                       "read the ways to run attention"));
  if (count == 0) return absl::UnimplementedError("cuDNN has no way to run this attention");
  candidates.erase(candidates.begin() + std::min<int64_t>(count, kCandidatesMost),
                   candidates.end());
  return candidates;
}

absl::StatusOr<CudnnDescriptor> MakePlan(const CudnnLibrary& library,
                                         const CudnnDescriptor& candidate,
                                         const SdpaTarget& target) {
  VITSCALE_ASSIGN_OR_RETURN(
      CudnnDescriptor plan,
      CudnnDescriptor::Create(library, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR));
  VITSCALE_RETURN_IF_ERROR(plan.SetDescriptor(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, candidate));
  if (target.handle != nullptr) {
    VITSCALE_RETURN_IF_ERROR(
        plan.Set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle));
  } else {
    VITSCALE_RETURN_IF_ERROR(
        plan.SetDescriptor(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, target.properties));
  }
  VITSCALE_RETURN_IF_ERROR(plan.Finalize("plan attention"));
  return plan;
}

}  // namespace

// ---- descriptors --------------------------------------------------------------------------------

absl::StatusOr<CudnnDescriptor> CudnnDescriptor::Create(const CudnnLibrary& library,
                                                        cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t raw = nullptr;
  VITSCALE_RETURN_IF_ERROR(library.ToStatus(library.BackendCreateDescriptor(type, &raw),
                                            absl::StrCat("create descriptor ", int{type})));
  return CudnnDescriptor(std::unique_ptr<void, Destroy>(raw, Destroy{&library}));
}

absl::Status CudnnDescriptor::Set(cudnnBackendAttributeName_t name,
                                  cudnnBackendAttributeType_t type, int64_t count,
                                  const void* values) {
  const CudnnLibrary& library = *raw_.get_deleter().library;
  return library.ToStatus(library.BackendSetAttribute(get(), name, type, count, values),
                          absl::StrCat("set attribute ", int{name}));
}

absl::Status CudnnDescriptor::SetDescriptor(cudnnBackendAttributeName_t name,
                                            const CudnnDescriptor& value) {
  const cudnnBackendDescriptor_t raw = value.get();
  return Set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw);
}

absl::StatusOr<int64_t> CudnnDescriptor::GetInt64(cudnnBackendAttributeName_t name) const {
  const CudnnLibrary& library = *raw_.get_deleter().library;
  int64_t count = 0, value = 0;
  VITSCALE_RETURN_IF_ERROR(library.ToStatus(
      library.BackendGetAttribute(get(), name, CUDNN_TYPE_INT64, 1, &count, &value),
      absl::StrCat("read attribute ", int{name})));
  return value;
}

absl::Status CudnnDescriptor::Finalize(const char* what) {
  const CudnnLibrary& library = *raw_.get_deleter().library;
  return library.ToStatus(library.BackendFinalize(get()), what);
}

// ---- targets, graph and plan --------------------------------------------------------------------

absl::StatusOr<SdpaTarget> TargetOfHandle(const CudnnLibrary& library, cudnnHandle_t handle) {
  VITSCALE_ASSIGN_OR_RETURN(CudnnDescriptor properties,
                            CudnnDescriptor::Create(library, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR));
  VITSCALE_RETURN_IF_ERROR(
      properties.Set(CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle));
  VITSCALE_RETURN_IF_ERROR(properties.Finalize("read the properties of the device"));
  return SdpaTarget{std::move(properties), handle};
}

absl::StatusOr<SdpaTarget> TargetOfProperties(const CudnnLibrary& library,
                                              const std::string& json) {
  VITSCALE_ASSIGN_OR_RETURN(CudnnDescriptor properties,
                            CudnnDescriptor::Create(library, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR));
  VITSCALE_RETURN_IF_ERROR(properties.Set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                          CUDNN_TYPE_CHAR, static_cast<int64_t>(json.size()) + 1,
                                          json.c_str()));
  VITSCALE_RETURN_IF_ERROR(properties.Finalize("take the properties of a device"));
  return SdpaTarget{std::move(properties), nullptr};
}

absl::StatusOr<SdpaGraph> SdpaGraph::Create(const CudnnLibrary& library, const AttentionSize& size,
                                            const SdpaTarget& target) {
  SdpaGraph graph;
  VITSCALE_RETURN_IF_ERROR(AddOperation(library, size, graph.parts_));
  VITSCALE_RETURN_IF_ERROR(AddGraph(library, target, graph.parts_));
  VITSCALE_ASSIGN_OR_RETURN(graph.candidates_, Candidates(library, graph.parts_.back(), target));
  return graph;
}

absl::StatusOr<SdpaPlan> SdpaPlan::Create(const CudnnLibrary& library, const AttentionSize& size,
                                          const SdpaTarget& target, int64_t workspace_bytes_max) {
  VITSCALE_ASSIGN_OR_RETURN(SdpaGraph graph, SdpaGraph::Create(library, size, target));
  absl::Status last;
  for (const CudnnDescriptor& candidate : graph.candidates()) {
    absl::StatusOr<CudnnDescriptor> plan = MakePlan(library, candidate, target);
    last = plan.status();
    if (!plan.ok()) continue;
    VITSCALE_ASSIGN_OR_RETURN(const int64_t bytes,
                              plan->GetInt64(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
    if (bytes <= workspace_bytes_max) {
      return SdpaPlan(std::move(graph), *std::move(plan), size, bytes);
    }
    last = absl::ResourceExhaustedError(absl::StrCat("attention of cuDNN wants ", bytes,
                                                     " bytes of workspace, at most ",
                                                     workspace_bytes_max, " are allowed"));
  }
  return last;
}

absl::StatusOr<CudnnDescriptor> SdpaPlan::Bind(const CudnnLibrary& library,
                                               const AttentionOperands& operands,
                                               void* workspace) const {
  const auto* q = static_cast<const std::byte*>(operands.qkv);
  const int64_t part = size_.width() * int64_t{sizeof(uint16_t)};  // of bf16
  const std::array<const void*, kIds.size()> pointers = {
      q, q + part, q + 2 * part, operands.out, operands.log_sum_exp, scale_.get()};
  VITSCALE_ASSIGN_OR_RETURN(
      CudnnDescriptor bound,
      CudnnDescriptor::Create(library, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR));
  VITSCALE_RETURN_IF_ERROR(
      bound.Set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, kIds.size(), kIds.data()));
  VITSCALE_RETURN_IF_ERROR(bound.Set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                                     pointers.size(), pointers.data()));
  VITSCALE_RETURN_IF_ERROR(
      bound.Set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace));
  VITSCALE_RETURN_IF_ERROR(bound.Finalize("bind the operands of attention"));
  return bound;
}

absl::Status SdpaPlan::Run(const CudnnLibrary& library, cudnnHandle_t handle,
                           const CudnnDescriptor& operands) const {
  return library.ToStatus(library.BackendExecute(handle, plan_.get(), operands.get()),
                          "run attention");
}

SdpaPlan::SdpaPlan(SdpaGraph graph, CudnnDescriptor plan, const AttentionSize& size,
                   int64_t workspace_bytes)
    : graph_(std::move(graph)),
      plan_(std::move(plan)),
      size_(size),
      workspace_bytes_(workspace_bytes),
      scale_(std::make_unique<const float>(1.0f / std::sqrt(static_cast<float>(size.head_dim)))) {}

}  // namespace vitscale::cuda
