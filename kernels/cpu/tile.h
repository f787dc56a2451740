// Register-blocked matmul for small and narrow operands: attention, weight gradients, narrow Linear
// layers.
//
// Everything is made of 32-bit *units*: one f32, or a pair of bf16 that lie side by side along the
// summed dimension (one vdpbf16ps multiplies and adds both). C[rows, columns] = A[rows, k units]
// B[k units, columns], where
//   A is natural:   row r at a + r * a_stride, its units side by side (any row-major matrix), or
//     interleaved:  unit row kk at a + kk * a_stride, rows side by side (interleave_rows of A^T);
//   B is packed:    column blocks of a few vectors, each [k][vectors * lanes] without gaps, columns
//                   beyond the last padded by zeros.
//
// Without AVX512_BF16 a unit is always an f32 and bf16 operands are widened when they are packed.
//
// A sum runs over k in order, so no bit of C depends on how rows or columns are cut into tiles.

#ifndef KERNELS_CPU_TILE_H_
#define KERNELS_CPU_TILE_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

enum class TileOut : uint8_t { kF32, kBf16 };

struct TileMatmul {
  int64_t rows = 0, columns = 0, k = 0;  // k in units
  const void* a = nullptr;
  int64_t a_stride = 0;  // units
  bool a_interleaved = false;
  const void* b = nullptr;      // packed
  const float* bias = nullptr;  // [columns], optional: where sums start
  bool accumulate = false;      // kF32: sums start from what C holds
  void* c = nullptr;
  int64_t c_stride = 0;  // elements
  TileOut out = TileOut::kF32;
};

// One table for each (instruction set, operand dtype).
struct TileKernels {
  int64_t units_per_lane = 1;  // elements that a unit holds: 2 for bf16 with AVX512_BF16, else 1
  int64_t lanes = 8;           // columns are padded to a multiple of it
  int64_t block_vectors = 2;   // a column block of B has at most as many

  // Units of a packed operand of `columns` columns and k elements.
  int64_t PackedUnits(int64_t columns, int64_t k) const {
    return Units(k) * PaddedColumns(columns);
  }
  int64_t Units(int64_t k) const { return (k + units_per_lane - 1) / units_per_lane; }
  int64_t PaddedColumns(int64_t columns) const { return (columns + lanes - 1) / lanes * lanes; }

  void (*multiply)(const TileMatmul& m);

  // B from a row-major matrix [k, columns] (elements; `stride` between rows): rows become the
  // summed dimension.
  void (*pack_rows)(const void* source, int64_t stride, int64_t k, int64_t columns, void* b);
  // The same for an interleaved A: one block, unit rows `PaddedColumns(columns)` apart.
  void (*interleave_rows)(const void* source, int64_t stride, int64_t k, int64_t columns, void* a);
  // B from the transpose of a row-major matrix [columns, k].
  void (*pack_columns)(const void* source, int64_t stride, int64_t k, int64_t columns, void* b);
  // A natural A as units: returns `source` itself where that is possible, else copies to `copy`
  // ([rows][Units(k)] units). Sets *a_stride.
  const void* (*natural)(const void* source, int64_t stride, int64_t rows, int64_t k, void* copy,
                         int64_t* a_stride);
};
const TileKernels& TileKernelsFor(Isa isa, bool bf16);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_TILE_H_
