// EmbedTokens and its gradient on CUDA. Contract: EmbedTokensArgs in kernels/ops.h. Reference:
// kernels/cpu/embed.cc.
//
//   variant             chosen when     memory traffic per element (embedding in bf16)
//   forward,  simple    width % 4 != 0  read 2 B, write 4 B (bf16 tokens: 2 B); an element at a
//   time forward,  vector    otherwise       the same, four elements at a time backward, simple
//   width % 4 != 0  read 4 B, write 2 B backward, vector    otherwise       the same, four elements
//   at a time
//
// A thread owns kVec neighbouring elements of the plane [tokens, width] and walks the images of its
// group. So a position is read once per group, and its gradient is summed while grad_tokens passes
// by, in the order of the images; one slot per group, then LaunchShareSum: 8 B / images of a group.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/column_sum.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kImagesPerGroup = 8;      // forward
constexpr int64_t kThreadsInFlight = 1024;  // per multiprocessor; backward makes groups for as many
constexpr int64_t kGroupsMax = 64;

// A plane is what one image has; class_elements (0 or width) of it belong to the class token.
struct Plane {
  int64_t batch, elements, class_elements, images_per_group;
};

__device__ inline int64_t PlaneElement(int per_thread) {
  return (int64_t{blockIdx.x} * kThreads + static_cast<int>(threadIdx.x)) * per_thread;
}
__device__ inline int64_t GroupBegin(const Plane& plane) {
  return int64_t{blockIdx.y} * plane.images_per_group;
}
__device__ inline int64_t GroupEnd(const Plane& plane) {
  const int64_t end = GroupBegin(plane) + plane.images_per_group;
  return end < plane.batch ? end : plane.batch;
}

// ---- forward ------------------------------------------------------------------------------------

template <int kVec, typename T, typename Tokens>
__global__ void __launch_bounds__(kThreads)
    Forward(Plane plane, const T* __restrict__ embedding, const float* __restrict__ position,
            const float* __restrict__ class_token, Tokens* __restrict__ tokens) {
  const int64_t at = PlaneElement(kVec);
  if (at >= plane.elements) return;
  const bool is_class = at < plane.class_elements;
  const int64_t patch_at = at - plane.class_elements;
  const int64_t patch_elements = plane.elements - plane.class_elements;
  const Floats<kVec> added =
      is_class ? LoadFloats<kVec>(class_token + at) : LoadFloats<kVec>(position + patch_at);
  const int64_t end = GroupEnd(plane);
#pragma unroll 4
  for (int64_t image = GroupBegin(plane); image < end; ++image) {
    Floats<kVec> value = added;
    if (!is_class) {
      const Floats<kVec> patch = LoadFloats<kVec>(embedding + image * patch_elements + patch_at);
#pragma unroll
      for (int i = 0; i < kVec; ++i) value[i] += patch[i];
    }
    StoreFloats(tokens + image * plane.elements + at, value);
  }
}

// ---- backward -----------------------------------------------------------------------------------

// shares: [groups, elements], or null where nothing is summed.
template <int kVec, typename T>
__global__ void __launch_bounds__(kThreads)
    Backward(Plane plane, const float* __restrict__ grad_tokens, T* __restrict__ grad_embedding,
             float* __restrict__ shares) {
  const int64_t at = PlaneElement(kVec);
  if (at >= plane.elements) return;
  const bool is_class = at < plane.class_elements;
  const int64_t patch_at = at - plane.class_elements;
  const int64_t patch_elements = plane.elements - plane.class_elements;
  const int64_t end = GroupEnd(plane);
  Floats<kVec> sum = ZeroFloats<kVec>();
#pragma unroll 4
  for (int64_t image = GroupBegin(plane); image < end; ++image) {
    const Floats<kVec> value = LoadFloats<kVec>(grad_tokens + image * plane.elements + at);
    if (!is_class) StoreFloats(grad_embedding + image * patch_elements + patch_at, value);
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum[i] += value[i];
  }
  if (shares != nullptr) StoreFloats(shares + int64_t{blockIdx.y} * plane.elements + at, sum);
}

// ---- launchers ----------------------------------------------------------------------------------

dim3 GridOf(const Plane& plane, int per_thread) {
  return dim3(Blocks(CeilDivide(plane.elements, kThreads * per_thread)),
              Blocks(CeilDivide(plane.batch, plane.images_per_group)));
}

std::string VariantOf(int64_t width) {
  return width % 4 == 0 ? "vector" : absl::StrCat("simple: width ", width, " is no multiple of 4");
}

// Enough groups that the threads fill the device, not so many that their slots cost.
int64_t ImagesPerGroup(int64_t batch, int64_t threads_per_group, const DeviceLimits& limits) {
  const int64_t wanted = CeilDivide(limits.multiprocessors * kThreadsInFlight, threads_per_group);
  return CeilDivide(batch, std::clamp<int64_t>(wanted, 1, std::min(batch, kGroupsMax)));
}

}  // namespace

CudaOpOr MakeCudaOp(const EmbedTokensArgs& args, CudaOpBuilder& builder) {
  const int64_t width = args.position.columns();
  const int64_t class_elements = args.class_token.present() ? width : 0;
  const Plane plane{args.batch, args.position.elements() + class_elements, class_elements,
                    std::max(kImagesPerGroup, CeilDivide(args.batch, 65535))};
  const bool vector = width % 4 == 0;
  return WithType(args.embedding.dtype, [&](auto embedding_type) {
    return WithType(args.tokens.dtype, [&](auto tokens_type) {
      using T = decltype(embedding_type);
      using Tokens = decltype(tokens_type);
      return MakeOp(VariantOf(width),
                    [=, kernel = vector ? Forward<4, T, Tokens> : Forward<1, T, Tokens>,
                     embedding = builder.Memory<const T>(args.embedding),
                     position = builder.Memory<const float>(args.position),
                     class_token = builder.Memory<const float>(args.class_token),
                     tokens = builder.Memory<Tokens>(args.tokens)](const RunContext& context) {
                      return Launch(kernel, GridOf(plane, vector ? 4 : 1), dim3(kThreads), 0,
                                    context.stream, plane, embedding, position, class_token,
                                    tokens);
                    });
    });
  });
}

CudaOpOr MakeCudaOp(const EmbedTokensGradArgs& args, CudaOpBuilder& builder) {
  const int64_t width = args.grad_embedding.columns();
  const int64_t class_elements = args.grad_class_token.present() ? width : 0;
  const int64_t elements = args.grad_tokens.elements() / args.batch;
  const int per_thread = width % 4 == 0 ? 4 : 1;
  const Plane plane{args.batch, elements, class_elements,
                    ImagesPerGroup(args.batch, CeilDivide(elements, per_thread), builder.limits())};
  const int64_t groups = CeilDivide(plane.batch, plane.images_per_group);
  const bool sums = args.grad_position.present() || args.grad_class_token.present();
  auto* shares = static_cast<float*>(
      sums ? builder.Scratch(groups * elements * static_cast<int64_t>(sizeof(float))) : nullptr);
  const ColumnParts parts{
      {builder.Memory<float>(args.grad_class_token), builder.Memory<float>(args.grad_position)},
      {class_elements, elements - class_elements}};
  return WithType(args.grad_embedding.dtype, [&](auto type) {
    using T = decltype(type);
    return MakeOp(VariantOf(width), [=, kernel = per_thread == 4 ? Backward<4, T> : Backward<1, T>,
                                     grad_tokens = builder.Memory<const float>(args.grad_tokens),
                                     grad_embedding = builder.Memory<T>(args.grad_embedding),
                                     accumulate = args.accumulate](const RunContext& context) {
      VITSCALE_RETURN_IF_ERROR(Launch(kernel, GridOf(plane, per_thread), dim3(kThreads), 0,
                                      context.stream, plane, grad_tokens, grad_embedding, shares));
      if (!sums) return absl::OkStatus();
      return LaunchShareSum(shares, groups, parts, accumulate, context.stream);
    });
  });
}

}  // namespace vitscale::cuda
