// MeanPool, SelectToken and their gradients on CUDA. Contracts: kernels/ops.h. Reference:
// kernels/cpu/pool.cc.
//
//   op, variant      chosen when               memory traffic per element of x or grad_x
//   mean, simple     width is no multiple of   read once, an element at a time
//                    16 bytes of x
//   mean, vector     otherwise                 read once, 16 B at a time
//   others, simple   width % 4 != 0            gradients: written once, an element at a time;
//   others, vector   otherwise                 four at a time. SelectToken: only the rows selected
//
// The mean is a sum over a tile of rows (LaunchTileSum), a tile being an image. The gradients write
// every row of grad_x: the row of grad_y, or zero.

#include "absl/strings/str_cat.h"
#include "kernels/cuda/column_sum.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/dialect/warp.h"
#include "kernels/cuda/floats.h"

namespace vitscale::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kRowsPerWarp = 4;

std::string VariantOf(int64_t width, int64_t multiple) {
  return width % multiple == 0
             ? "vector"
             : absl::StrCat("simple: width ", width, " is no multiple of ", multiple);
}

// ---- select -------------------------------------------------------------------------------------

// y[image] = x[image, token]; a warp per image.
template <int kVec, typename X, typename Y>
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    Select(const X* x, int64_t batch, int64_t tokens, int64_t token, int64_t width, Y* y) {
  const int64_t image = int64_t{blockIdx.x} * kWarps + Warp();
  if (image >= batch) return;
  const X* from = x + (image * tokens + token) * width;
  Y* to = y + image * width;
  for (int64_t c = Lane() * kVec; c < width; c += kWarpLanes * kVec) {
    StoreFloats(to + c, LoadFloats<kVec>(from + c));
  }
}

// ---- gradients ----------------------------------------------------------------------------------

inline constexpr int64_t kEveryToken = -1;

// grad_x[image, t] = scale * grad_y[image] for t = token, or for every t; zero elsewhere. A warp
// writes kRowsPerWarp tokens of one image and keeps the columns it is at in registers.
template <int kVec, typename X, typename Y>
__global__ void __launch_bounds__(kWarps* kWarpLanes)
    Spread(const Y* grad_y, int64_t tokens, int64_t token, int64_t width, float scale,
           int64_t blocks_per_image, X* grad_x) {
  const int64_t image = blockIdx.x / blocks_per_image;
  const int64_t first = (blockIdx.x % blocks_per_image * kWarps + Warp()) * kRowsPerWarp;
  const int64_t end = first + kRowsPerWarp < tokens ? first + kRowsPerWarp : tokens;
  for (int64_t c = Lane() * kVec; c < width; c += kWarpLanes * kVec) {
    Floats<kVec> value = LoadFloats<kVec>(grad_y + image * width + c);
#pragma unroll
    for (int i = 0; i < kVec; ++i) value[i] *= scale;
    for (int64_t t = first; t < end; ++t) {
      const bool take = token == kEveryToken || token == t;
      StoreFloats(grad_x + (image * tokens + t) * width + c, take ? value : ZeroFloats<kVec>());
    }
  }
}

template <typename X, typename Y>
CudaOpOr MakeSpread(const TensorView& grad_y, int64_t batch, int64_t tokens, int64_t token,
                    float scale, const TensorView& grad_x, CudaOpBuilder& builder) {
  const int64_t width = grad_x.columns();
  const int64_t blocks_per_image = CeilDivide(tokens, kWarps * kRowsPerWarp);
  return MakeOp(VariantOf(width, 4), [=, from = builder.Memory<const Y>(grad_y),
                                      to = builder.Memory<X>(grad_x)](const RunContext& context) {
    return Launch(width % 4 == 0 ? Spread<4, X, Y> : Spread<1, X, Y>,
                  dim3(Blocks(batch * blocks_per_image)), dim3(kWarps * kWarpLanes), 0,
                  context.stream, from, tokens, token, width, scale, blocks_per_image, to);
  });
}

CudaOpOr MakeSpread(const TensorView& grad_y, int64_t batch, int64_t tokens, int64_t token,
                    float scale, const TensorView& grad_x, CudaOpBuilder& builder) {
  return WithType(grad_x.dtype, [&](auto x) {
    return WithType(grad_y.dtype, [&](auto y) {
      return MakeSpread<decltype(x), decltype(y)>(grad_y, batch, tokens, token, scale, grad_x,
                                                  builder);
    });
  });
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------

CudaOpOr MakeCudaOp(const MeanPoolArgs& args, CudaOpBuilder& builder) {
  const int64_t width = args.x.columns();
  const TileSum mean{builder.Memory<const void>(args.x),
                     args.x.dtype,
                     args.batch * args.tokens,
                     width,
                     args.tokens,
                     1.0f / static_cast<float>(args.tokens),
                     builder.Memory<void>(args.y),
                     args.y.dtype};
  return MakeOp(VariantOf(width, 16 / DTypeBytes(args.x.dtype)),
                [mean](const RunContext& context) { return LaunchTileSum(mean, context.stream); });
}

CudaOpOr MakeCudaOp(const MeanPoolGradArgs& args, CudaOpBuilder& builder) {
  return MakeSpread(args.grad_y, args.batch, args.tokens, kEveryToken,
                    1.0f / static_cast<float>(args.tokens), args.grad_x, builder);
}

CudaOpOr MakeCudaOp(const SelectTokenArgs& args, CudaOpBuilder& builder) {
  const int64_t width = args.x.columns();
  return WithType(args.x.dtype, [&](auto x_type) {
    return WithType(args.y.dtype, [&](auto y_type) {
      using X = decltype(x_type);
      using Y = decltype(y_type);
      return MakeOp(
          VariantOf(width, 4), [=, batch = args.batch, tokens = args.tokens, token = args.token,
                                x = builder.Memory<const X>(args.x),
                                y = builder.Memory<Y>(args.y)](const RunContext& context) {
            return Launch(width % 4 == 0 ? Select<4, X, Y> : Select<1, X, Y>,
                          dim3(Blocks(CeilDivide(batch, kWarps))), dim3(kWarps * kWarpLanes), 0,
                          context.stream, x, batch, tokens, token, width, y);
          });
    });
  });
}

CudaOpOr MakeCudaOp(const SelectTokenGradArgs& args, CudaOpBuilder& builder) {
  return MakeSpread(args.grad_y, args.batch, args.tokens, args.token, 1.0f, args.grad_x, builder);
}

}  // namespace vitscale::cuda
