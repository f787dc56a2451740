// What an implementation of self-attention forward is given: the interface between our own kernels,
// cuDNN's and what compares them.

#ifndef KERNELS_CUDA_CUDNN_ATTENTION_OPERANDS_H_
#define KERNELS_CUDA_CUDNN_ATTENTION_OPERANDS_H_

#include <cuda_runtime_api.h>

#include <compare>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"

namespace vitscale::cuda {

struct AttentionSize {
  int64_t batch = 0, tokens = 0, heads = 0, head_dim = 0;
  int64_t width() const { return heads * head_dim; }
  int64_t rows() const { return batch * tokens; }
  auto operator<=>(const AttentionSize&) const = default;
};

// In device memory; contents as in SelfAttentionArgs, bf16.
struct AttentionOperands {
  const void* qkv = nullptr;     // [rows, 3 * width], bf16
  void* out = nullptr;           // [rows, width], bf16
  float* log_sum_exp = nullptr;  // [batch, heads, tokens]; may be null where it is not kept
};

// Puts one forward pass into the stream.
using AttentionForward = std::function<absl::Status(const AttentionOperands&, cudaStream_t)>;

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDNN_ATTENTION_OPERANDS_H_
