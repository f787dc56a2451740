// Rows of f32 or bf16, a few elements at a time, as f32 in registers; and host code that turns a
// dtype into a type.

#ifndef KERNELS_CUDA_FLOATS_H_
#define KERNELS_CUDA_FLOATS_H_

#include <cstdint>

#include "kernels/cuda/dialect/dialect.h"
#include "kernels/cuda/dialect/vec.h"
#include "kernels/tensor.h"

namespace vitscale::cuda {

// In place of the type of an operand that is absent.
struct Absent {};
template <typename T>
inline constexpr bool kIsPresent = true;
template <>
inline constexpr bool kIsPresent<Absent> = false;

template <int N>
struct Floats {
  float v[N];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ const float& operator[](int i) const { return v[i]; }
};
template <int N>
__device__ inline Floats<N> ZeroFloats() {
  Floats<N> zero;
#pragma unroll
  for (int i = 0; i < N; ++i) zero[i] = 0.0f;
  return zero;
}

// The widest single access to N elements of T: all of them, or 16 bytes.
template <typename T, int N>
inline constexpr int kPerAccess = N* static_cast<int>(sizeof(T)) <= 16
                                      ? N
                                      : 16 / static_cast<int>(sizeof(T));

// N elements from an address that is a multiple of kPerAccess elements.
template <int N, typename T>
__device__ inline Floats<N> LoadFloats(const T* from) {
  constexpr int kStep = kPerAccess<T, N>;
  Floats<N> to;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    const Vec<T, kStep> part = LoadVec<kStep>(from + i);
#pragma unroll
    for (int j = 0; j < kStep; ++j) to[i + j] = ToFloat(part[j]);
  }
  return to;
}
template <int N, typename T>
__device__ inline void StoreFloats(T* to, const Floats<N>& from) {
  constexpr int kStep = kPerAccess<T, N>;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    Vec<T, kStep> part;
#pragma unroll
    for (int j = 0; j < kStep; ++j) FromFloat(from[i + j], part[j]);
    StoreVec(to + i, part);
  }
}

// ---- host ---------------------------------------------------------------------------------------

// f(T{}) with the type of a bf16 or f32 operand.
template <typename Function>
auto WithType(DType dtype, Function f) {
  return dtype == DType::kBf16 ? f(Bf16{}) : f(float{});
}
// The same for an optional one, f(Absent{}) without it.
template <typename Function>
auto WithType(const TensorView& view, Function f) {
  if (!view.present()) return f(Absent{});
  return view.dtype == DType::kBf16 ? f(Bf16{}) : f(float{});
}

inline int64_t CeilDivide(int64_t count, int64_t size) { return (count + size - 1) / size; }
inline unsigned Blocks(int64_t count) { return static_cast<unsigned>(count); }

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_FLOATS_H_
