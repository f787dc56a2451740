// Shared memory of a block, and its barrier.
//
//   struct RowShared { SharedArray<float, 8> sums; SharedArray<Bf16, 64 * 72> tile; };
//   __global__ void Kernel(...) {
//     RowShared& shared = SharedMemory<RowShared>();
//     shared.sums[warp] = sum;            // one element
//     BlockBarrier();
//     Vec<Bf16, 8> v = shared.tile.Load<8>(i);   // 16 bytes; i a multiple of 8
//     SharedAddress<Bf16> row = shared.tile.At(i);  // for LoadMatrix and CopyAsync
//   }
//   Launch(Kernel, grid, block, sizeof(RowShared), stream, ...);
//
// On the CPU every access is checked: inside the array, written before it is read (memory starts as
// NaN), and no two threads touch a word between two barriers when one of them writes (lanes of one
// warp: between two warp barriers). Only types of this header may stand in the struct.

#ifndef KERNELS_CUDA_DIALECT_SHARED_H_
#define KERNELS_CUDA_DIALECT_SHARED_H_

#include "kernels/cuda/dialect/dialect.h"
#include "kernels/cuda/dialect/vec.h"

namespace vitscale::cuda {

// Every thread of the block must come here; never inside a branch that some threads do not take.
__device__ inline void BlockBarrier() {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::BlockBarrier();
#else
  __syncthreads();
#endif
}

// The lanes of a warp alone: what they wrote to shared memory before is seen by all of them behind
// it. Shuffles, MmaBf16 and LoadMatrix order no memory. All 32 lanes.
__device__ inline void WarpBarrier() {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::WarpBarrier();
#else
  __syncwarp();
#endif
}

// A place in shared memory.
template <typename T>
struct SharedAddress {
  T* at;
};

template <typename T, int N>
class alignas(16) SharedArray {
 public:
  static constexpr int size() { return N; }

#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::SharedElement<T> operator[](int i) { return {Checked(i, 1)}; }
  template <int kCount>
  Vec<T, kCount> Load(int i) const {
    Vec<T, kCount> to;
    host_twin::ReadShared(&to, Checked(i, kCount), sizeof(to), sizeof(to));
    return to;
  }
  template <int kCount>
  void Store(int i, const Vec<T, kCount>& from) {
    host_twin::WriteShared(Checked(i, kCount), &from, sizeof(from), sizeof(from));
  }
  SharedAddress<T> At(int i) { return {Checked(i, 1)}; }

 private:
  T* Checked(int i, int count) const {
    host_twin::CheckIndex(i, count, N);
    return const_cast<T*>(&values_[i]);
  }
#else
  __device__ T& operator[](int i) { return values_[i]; }
  template <int kCount>
  __device__ Vec<T, kCount> Load(int i) const {
    return *reinterpret_cast<const Vec<T, kCount>*>(&values_[i]);
  }
  template <int kCount>
  __device__ void Store(int i, const Vec<T, kCount>& from) {
    *reinterpret_cast<Vec<T, kCount>*>(&values_[i]) = from;
  }
  __device__ SharedAddress<T> At(int i) { return {&values_[i]}; }

 private:
#endif
  T values_[N];
};

// The block's dynamic shared memory as `Struct`; the launch must ask for sizeof(Struct) bytes.
template <typename Struct>
__device__ inline Struct& SharedMemory() {
#ifdef VITSCALE_CUDA_ON_CPU
  return *static_cast<Struct*>(host_twin::SharedMemory(sizeof(Struct)));
#else
  extern __shared__ __align__(128) unsigned char vitscale_shared_memory[];
  return *reinterpret_cast<Struct*>(vitscale_shared_memory);
#endif
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_SHARED_H_
