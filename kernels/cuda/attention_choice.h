// Which variant of self-attention, and why.

#ifndef KERNELS_CUDA_ATTENTION_CHOICE_H_
#define KERNELS_CUDA_ATTENTION_CHOICE_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/tensor.h"

namespace vitscale::cuda {

inline constexpr int kMmaHeadDimMax = 128;

// Why tensor cores are not used; empty if they are. A block would need `shared_bytes`, of
// `device_shared_bytes`.
inline std::string WhySimpleAttention(DType dtype, int64_t head_dim, int64_t shared_bytes,
                                      int64_t device_shared_bytes) {
  if (dtype != DType::kBf16) return "f32";
  if (head_dim > kMmaHeadDimMax) {
    return absl::StrCat("head dim ", head_dim, " is over ", kMmaHeadDimMax);
  }
  if (shared_bytes <= device_shared_bytes) return "";
  return absl::StrCat("head dim ", head_dim, " needs ", shared_bytes,
                      " bytes of shared memory, the device has ", device_shared_bytes);
}

inline std::string MmaAttentionVariant(int64_t head_dim) {
  if (head_dim % 16 == 0) return "mma";
  return absl::StrCat("mma, head dim ", head_dim, " padded to ", head_dim + 16 - head_dim % 16);
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_ATTENTION_CHOICE_H_
