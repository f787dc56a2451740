// Choosing among the variants of self-attention. Host code.

#ifndef KERNELS_CUDA_ATTENTION_LAUNCH_H_
#define KERNELS_CUDA_ATTENTION_LAUNCH_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/attention_choice.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/cuda_op.h"

namespace vitscale::cuda {

inline AttentionShape ShapeOfAttention(int64_t tokens, int64_t heads, int64_t head_dim) {
  AttentionShape shape;
  shape.tokens = static_cast<int>(tokens);
  shape.heads = static_cast<int>(heads);
  shape.head_dim = static_cast<int>(head_dim);
  shape.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return shape;
}

// self_attention_simple.cu: any head dim and dtype; `why` it was chosen.
CudaOpOr SimpleSelfAttention(const SelfAttentionArgs& args, CudaOpBuilder& builder,
                             const AttentionShape& shape, const std::string& why);
CudaOpOr SimpleSelfAttention(const SelfAttentionGradArgs& args, CudaOpBuilder& builder,
                             const AttentionShape& shape, const std::string& why);

inline int TilesOf(int tokens, int rows) { return (tokens + rows - 1) / rows; }

// Blocks and tokens are counted in int.
inline absl::Status CheckAttentionSize(int64_t batch, int64_t tokens, int64_t heads) {
  constexpr int64_t kMost = std::numeric_limits<int>::max() - 1024;
  if (tokens <= kMost && batch <= kMost / heads / tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("batch * heads * tokens is ", batch, " * ", heads,
                                                 " * ", tokens, ", want at most ", kMost));
}

// `call` with the head dim rounded up to 16 as a constant; head dims over kMmaHeadDimMax count
// as that.
template <typename Call>
auto WithPaddedHeadDim(int64_t head_dim, Call call) {
  switch ((head_dim + 15) / 16) {
    case 1:
      return call(std::integral_constant<int, 16>());
    case 2:
      return call(std::integral_constant<int, 32>());
    case 3:
      return call(std::integral_constant<int, 48>());
    case 4:
      return call(std::integral_constant<int, 64>());
    case 5:
      return call(std::integral_constant<int, 80>());
    case 6:
      return call(std::integral_constant<int, 96>());
    case 7:
      return call(std::integral_constant<int, 112>());
    default:
      return call(std::integral_constant<int, 128>());
  }
}

// WhySimpleAttention for a kernel whose shared memory at a padded head dim is Shared<kDim>.
template <template <int> class Shared>
std::string WhySimple(DType dtype, int64_t head_dim, const CudaOpBuilder& builder) {
  const int64_t shared_bytes =
      WithPaddedHeadDim(head_dim, [](auto dim) { return int64_t{sizeof(Shared<dim()>)}; });
  return WhySimpleAttention(dtype, head_dim, shared_bytes, builder.limits().shared_bytes_per_block);
}

// The op by tensor cores (`mma`, whose blocks have Shared<kDim>) where that can be, else simply.
template <template <int> class Shared, typename Args>
CudaOpOr MakeSelfAttention(const Args& args, CudaOpBuilder& builder,
                           CudaOpOr (*mma)(const Args&, CudaOpBuilder&, AttentionShape)) {
  VITSCALE_RETURN_IF_ERROR(CheckAttentionSize(args.batch, args.tokens, args.heads));
  const AttentionShape shape =
      ShapeOfAttention(args.tokens, args.heads, args.out.columns() / args.heads);
  const std::string why = WhySimple<Shared>(args.out.dtype, shape.head_dim, builder);
  return why.empty() ? mma(args, builder, shape) : SimpleSelfAttention(args, builder, shape, why);
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_ATTENTION_LAUNCH_H_
