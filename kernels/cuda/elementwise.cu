// Tanh, Fill, Copy, Cast, PolyakAverage on CUDA. Contracts: kernels/ops.h. References:
// kernels/cpu/elementwise.cc and pool.cc.
//
//   op             memory traffic per element
//   Tanh           read and write once          (2 or 4 B each)
//   TanhGrad       read twice and write once    (2 or 4 B each)
//   Fill           write once                   (1 to 8 B)
//   Copy           read and write once          (1 to 8 B)
//   Cast           read and write once          (6 B together)
//   PolyakAverage  read twice and write once    (12 B together)
//
// One variant, "vector": tensors are dense and aligned, so a thread takes kPerThread elements (or
// 16 bytes) in as few accesses as there can be, and the thread at the end what is left, one by one.

#include <bit>
#include <cmath>

#include "kernels/base/bf16.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;

__device__ inline int64_t Thread() {
  return int64_t{blockIdx.x} * kThreads + static_cast<int>(threadIdx.x);
}

// f(std::integral_constant<int, N>, first) for this thread's elements: N = kPerThread at once, or
// N = 1 in turn at the end of the tensor.
template <int N>
struct Count {
  static constexpr int value = N;
};
template <typename Function>
__device__ inline void ForElements(int64_t count, Function f) {
  const int64_t first = Thread() * kPerThread;
  if (first + kPerThread <= count) return f(Count<kPerThread>{}, first);
  for (int64_t i = first; i < count; ++i) f(Count<1>{}, i);
}

template <typename... Parameters, typename... Args>
absl::Status LaunchElements(void (*kernel)(Parameters...), int64_t count, int64_t per_thread,
                            cudaStream_t stream, Args... args) {
  const int64_t blocks = CeilDivide(count, kThreads * per_thread);
  return Launch(kernel, dim3(Blocks(blocks)), dim3(kThreads), 0, stream, args...);
}

// ---- tanh, cast ---------------------------------------------------------------------------------

struct Identity {
  __device__ float operator()(float x) const { return x; }
};
struct Tanh {
  __device__ float operator()(float x) const { return tanhf(x); }
};

template <typename Function, typename X, typename Y>
__global__ void __launch_bounds__(kThreads) Map(const X* x, Y* y, int64_t count) {
  ForElements(count, [&](auto n, int64_t at) {
    Floats<n.value> value = LoadFloats<n.value>(x + at);
#pragma unroll
    for (int i = 0; i < n.value; ++i) value[i] = Function()(value[i]);
    StoreFloats(y + at, value);
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    TanhBackward(const T* grad_y, const T* y, T* grad_x, int64_t count) {
  ForElements(count, [&](auto n, int64_t at) {
    Floats<n.value> gradient = LoadFloats<n.value>(grad_y + at);
    const Floats<n.value> value = LoadFloats<n.value>(y + at);
#pragma unroll
    for (int i = 0; i < n.value; ++i) gradient[i] *= fmaf(-value[i], value[i], 1.0f);
    StoreFloats(grad_x + at, gradient);
  });
}

// ---- average ------------------------------------------------------------------------------------

// Rounded as on the CPU: decay * average, then one fused multiply and addition.
__global__ void __launch_bounds__(kThreads)
    Average(const float* parameters, float decay, float complement, const StepScalars* scalars,
            float* average, int64_t count) {
  if (scalars->apply == 0) return;
  ForElements(count, [&](auto n, int64_t at) {
    const Floats<n.value> parameter = LoadFloats<n.value>(parameters + at);
    Floats<n.value> value = LoadFloats<n.value>(average + at);
#pragma unroll
    for (int i = 0; i < n.value; ++i) {
      value[i] = fmaf(complement, parameter[i], decay * value[i]);
    }
    StoreFloats(average + at, value);
  });
}

// ---- bytes --------------------------------------------------------------------------------------

using Bytes16 = Vec<uint64_t, 2>;

// Every 8 bytes of y become `pattern`, little-endian; the last ones its beginning.
__global__ void __launch_bounds__(kThreads) FillBytes(uint64_t pattern, uint8_t* y, int64_t bytes) {
  const int64_t first = Thread() * 16;
  if (first + 16 <= bytes) {
    StoreVec(reinterpret_cast<uint64_t*>(y + first), Bytes16{{pattern, pattern}});
    return;
  }
  for (int64_t i = first; i < bytes; ++i) y[i] = static_cast<uint8_t>(pattern >> (i % 8 * 8));
}

__global__ void __launch_bounds__(kThreads) CopyBytes(const uint8_t* x, uint8_t* y, int64_t bytes) {
  const int64_t first = Thread() * 16;
  if (first + 16 <= bytes) {
    StoreVec(reinterpret_cast<uint64_t*>(y + first),
             LoadVec<2>(reinterpret_cast<const uint64_t*>(x + first)));
    return;
  }
  for (int64_t i = first; i < bytes; ++i) y[i] = x[i];
}

// `value` as the dtype stores it, repeated over 8 bytes.
uint64_t FillPattern(DType dtype, double value) {
  constexpr uint64_t kEveryByte = 0x0101010101010101ull, kEveryHalf = 0x0001000100010001ull,
                     kEveryWord = 0x0000000100000001ull;
  switch (dtype) {
    case DType::kU8:
      return kEveryByte * static_cast<uint8_t>(value);
    case DType::kBf16:
      return kEveryHalf * ToBf16(static_cast<float>(value));
    case DType::kF32:
      return kEveryWord * std::bit_cast<uint32_t>(static_cast<float>(value));
    case DType::kI32:
      return kEveryWord * static_cast<uint32_t>(static_cast<int32_t>(value));
    case DType::kF64:
      return std::bit_cast<uint64_t>(value);
    case DType::kI64:
      return static_cast<uint64_t>(static_cast<int64_t>(value));
  }
  return 0;
}

template <typename Function, typename X, typename Y>
CudaOpOr MakeMap(const TensorView& x, const TensorView& y, CudaOpBuilder& builder) {
  return MakeOp("vector", [from = builder.Memory<const X>(x), to = builder.Memory<Y>(y),
                           count = x.elements()](const RunContext& context) {
    return LaunchElements(Map<Function, X, Y>, count, kPerThread, context.stream, from, to, count);
  });
}

}  // namespace

// ---- launchers ----------------------------------------------------------------------------------

CudaOpOr MakeCudaOp(const TanhArgs& args, CudaOpBuilder& builder) {
  return WithType(args.x.dtype, [&](auto type) {
    return MakeMap<Tanh, decltype(type), decltype(type)>(args.x, args.y, builder);
  });
}

CudaOpOr MakeCudaOp(const TanhGradArgs& args, CudaOpBuilder& builder) {
  return WithType(args.y.dtype, [&](auto type) {
    using T = decltype(type);
    return MakeOp("vector",
                  [grad_y = builder.Memory<const T>(args.grad_y),
                   y = builder.Memory<const T>(args.y), grad_x = builder.Memory<T>(args.grad_x),
                   count = args.y.elements()](const RunContext& context) {
                    return LaunchElements(TanhBackward<T>, count, kPerThread, context.stream,
                                          grad_y, y, grad_x, count);
                  });
  });
}

CudaOpOr MakeCudaOp(const FillArgs& args, CudaOpBuilder& builder) {
  return MakeOp("vector",
                [y = builder.Memory<uint8_t>(args.y), bytes = args.y.bytes(),
                 pattern = FillPattern(args.y.dtype, args.value)](const RunContext& context) {
                  return LaunchElements(FillBytes, bytes, 16, context.stream, pattern, y, bytes);
                });
}

CudaOpOr MakeCudaOp(const CopyArgs& args, CudaOpBuilder& builder) {
  return MakeOp("vector",
                [x = builder.Memory<const uint8_t>(args.x), y = builder.Memory<uint8_t>(args.y),
                 bytes = args.x.bytes()](const RunContext& context) {
                  return LaunchElements(CopyBytes, bytes, 16, context.stream, x, y, bytes);
                });
}

CudaOpOr MakeCudaOp(const CastArgs& args, CudaOpBuilder& builder) {
  if (args.x.dtype == args.y.dtype) return MakeCudaOp(CopyArgs{args.x, args.y}, builder);
  if (args.x.dtype == DType::kF32) return MakeMap<Identity, float, Bf16>(args.x, args.y, builder);
  return MakeMap<Identity, Bf16, float>(args.x, args.y, builder);
}

CudaOpOr MakeCudaOp(const PolyakAverageArgs& args, CudaOpBuilder& builder) {
  return MakeOp("vector",
                [parameters = builder.Memory<const float>(args.parameters),
                 average = builder.Memory<float>(args.average), count = args.average.elements(),
                 decay = args.decay](const RunContext& context) {
                  return LaunchElements(Average, count, kPerThread, context.stream, parameters,
                                        decay, 1.0f - decay, context.scalars, average, count);
                });
}

}  // namespace vitscale::cuda
