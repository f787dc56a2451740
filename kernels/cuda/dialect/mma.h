// The tensor cores: 16x8x16 products of bf16 with f32 sums, and loads of their operands from shared
// memory.
//
// Source: PTX ISA 9.0, mma.m16n8k16 and ldmatrix. Which lane holds which element (group = lane / 4,
// pair = lane % 4):
//   A [16 x 16]  r[0]: row group,     columns 2 pair, +1      r[2]: row group,     columns 2 pair +
//   8, +9
//                r[1]: row group + 8, columns 2 pair, +1      r[3]: row group + 8, columns 2 pair +
//                8, +9
//   B [16 x 8]   r[0]: rows 2 pair, +1, column group          r[1]: rows 2 pair + 8, +9, column
//   group C [16 x 8]   v[0], v[1]: row group, columns 2 pair, +1    v[2], v[3]: row group + 8, the
//   same columns
// Two bf16 in one register: the lower row or column in the low half.

#ifndef KERNELS_CUDA_DIALECT_MMA_H_
#define KERNELS_CUDA_DIALECT_MMA_H_

#include "kernels/cuda/dialect/shared.h"

namespace vitscale::cuda {

struct FragmentA {
  uint32_t r[4];
};
struct FragmentB {
  uint32_t r[2];
};
struct FragmentC {
  float v[4];
};

// c += a b. All lanes of the warp.
__device__ inline void MmaBf16(FragmentC& c, const FragmentA& a, const FragmentB& b) {
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::MmaBf16(c.v, a.r, b.r);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c.v[0]), "+f"(c.v[1]), "+f"(c.v[2]), "+f"(c.v[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
#endif
}

// kMatrices (1, 2 or 4) matrices of 8x8 bf16. Lane i gives the address of row i % 8 of matrix i / 8
// (16 bytes, aligned; lanes beyond 8 * kMatrices give any valid address); r[m] gets row lane / 4,
// columns 2 (lane % 4), +1 of matrix m, with `kTransposed` column lane / 4, rows 2 (lane % 4), +1.
template <int kMatrices, bool kTransposed = false>
__device__ inline void LoadMatrix(uint32_t (&r)[kMatrices], SharedAddress<Bf16> row) {
  static_assert(kMatrices == 2 || kMatrices == 4);
#ifdef VITSCALE_CUDA_ON_CPU
  host_twin::LoadMatrix(r, kMatrices, kTransposed, row.at);
#else
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row.at));
  if constexpr (kMatrices == 4 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  } else if constexpr (kMatrices == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  } else if constexpr (!kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  }
#endif
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_DIALECT_MMA_H_
