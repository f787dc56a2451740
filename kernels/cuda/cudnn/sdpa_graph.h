// Attention forward as cuDNN's graph API has it: one operation (scaled dot product attention) over
// tensors laid out as SelfAttentionArgs has them, planned for a device.
//
//   tensor       extents [batch, heads, tokens, .]  strides, in elements
//   q, k, v      head_dim, bf16                     3 width tokens, head_dim, 3 width, 1
//   out          head_dim, bf16                     width tokens, head_dim, width, 1
//   log_sum_exp  1, f32                             heads tokens, tokens, 1, 1
//   scale        one f32 of the host                1 / sqrt(head_dim)
//
// Source of names and types: cudnn_graph.h. Backward is not here: cuDNN 9.19 refuses a graph of its
// backward operation (BAD_PARAM), whatever tensors it has.

#ifndef KERNELS_CUDA_CUDNN_SDPA_GRAPH_H_
#define KERNELS_CUDA_CUDNN_SDPA_GRAPH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cudnn/attention_operands.h"
#include "kernels/cuda/cudnn/cudnn_library.h"

namespace vitscale::cuda {

// A descriptor of the backend API, destroyed with its owner. The library outlives it.
class CudnnDescriptor {
 public:
  static absl::StatusOr<CudnnDescriptor> Create(const CudnnLibrary& library,
                                                cudnnBackendDescriptorType_t type);
  cudnnBackendDescriptor_t get() const { return raw_.get(); }

  absl::Status Set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   int64_t count, const void* values);
  absl::Status SetDescriptor(cudnnBackendAttributeName_t name, const CudnnDescriptor& value);
  absl::StatusOr<int64_t> GetInt64(cudnnBackendAttributeName_t name) const;
  absl::Status Finalize(const char* what);

 private:
  struct Destroy {
    const CudnnLibrary* library;
    void operator()(void* raw) const { (void)library->BackendDestroyDescriptor(raw); }
  };
  explicit CudnnDescriptor(std::unique_ptr<void, Destroy> raw) : raw_(std::move(raw)) {}
  std::unique_ptr<void, Destroy> raw_;
};

// For which device to plan: that of a handle, or one that is only described.
struct SdpaTarget {
  CudnnDescriptor properties;
  cudnnHandle_t handle = nullptr;  // may be null
};
absl::StatusOr<SdpaTarget> TargetOfHandle(const CudnnLibrary& library, cudnnHandle_t handle);
// `json`: the properties of a device as cuDNN writes them. Needs no device and no driver.
absl::StatusOr<SdpaTarget> TargetOfProperties(const CudnnLibrary& library, const std::string& json);

// The graph of one shape and the ways to run it that the library offers for a target, best first;
// UNIMPLEMENTED if there is none.
class SdpaGraph {
 public:
  static absl::StatusOr<SdpaGraph> Create(const CudnnLibrary& library, const AttentionSize& size,
                                          const SdpaTarget& target);
  const std::vector<CudnnDescriptor>& candidates() const { return candidates_; }

 private:
  SdpaGraph() = default;
  std::vector<CudnnDescriptor> parts_;       // tensors | operation | graph
  std::vector<CudnnDescriptor> candidates_;  // engine configurations
};

// One candidate made ready to run.
class SdpaPlan {
 public:
  // The first candidate that can be made ready in `workspace_bytes_max`; else the last error.
  static absl::StatusOr<SdpaPlan> Create(const CudnnLibrary& library, const AttentionSize& size,
                                         const SdpaTarget& target, int64_t workspace_bytes_max);
  int64_t workspace_bytes() const { return workspace_bytes_; }
  // What Run reads and writes, `operands.log_sum_exp` included, which must be there. Used no longer
  // than the plan.
  absl::StatusOr<CudnnDescriptor> Bind(const CudnnLibrary& library,
                                       const AttentionOperands& operands, void* workspace) const;
  // Puts the operation into the handle's stream.
  absl::Status Run(const CudnnLibrary& library, cudnnHandle_t handle,
                   const CudnnDescriptor& operands) const;

 private:
  SdpaPlan(SdpaGraph graph, CudnnDescriptor plan, const AttentionSize& size,
           int64_t workspace_bytes);
  SdpaGraph graph_;  // what the plan refers to
  CudnnDescriptor plan_;
  AttentionSize size_;
  int64_t workspace_bytes_;
  std::unique_ptr<const float> scale_;  // read when the operation runs
};

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDNN_SDPA_GRAPH_H_
