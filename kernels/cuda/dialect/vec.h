// Several elements in one access to global memory: at most 16 bytes, the address a multiple of the
// size.

#ifndef KERNELS_CUDA_DIALECT_VEC_H_
#define KERNELS_CUDA_DIALECT_VEC_H_

#include "kernels/cuda/dialect/dialect.h"

namespace vitscale::cuda {

template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  static_assert(sizeof(T) * N <= 16 && (N & (N - 1)) == 0, "one access moves 2, 4, 8 or 16 bytes");
  T v[N];
  __device__ T& operator[](int i) { return v[i]; }
  __device__ const T& operator[](int i) const { return v[i]; }
};

template <int N, typename T>
__device__ inline Vec<T, N> LoadVec(const T* from) {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::CheckAligned(from, sizeof(Vec<T, N>));
#endif
  return *reinterpret_cast<const Vec<T, N>*>(from);
}
template <int N, typename T>
__device__ inline void StoreVec(T* to, const Vec<T, N>& value) {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::CheckAligned(to, sizeof(Vec<T, N>));
#endif
  *reinterpret_cast<Vec<T, N>*>(to) = value;
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_VEC_H_
