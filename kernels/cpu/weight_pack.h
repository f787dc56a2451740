// Rearranges f32 weights into the column blocks that matmuls read, in one pass over memory:
// rounded, transposed where that is wanted, written in runs of whole cache lines. Layout: tile.h;
// oneDNN's blocked layouts are the same with fixed blocks (DnnlWeightBlocks in matmul.h).

#ifndef KERNELS_CPU_WEIGHT_PACK_H_
#define KERNELS_CPU_WEIGHT_PACK_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

// A rectangle of a weight and where it goes: the first of `columns` in a column block of the packed
// operand (unit rows `to_stride` units apart).
struct PackRectangle {
  const float* source = nullptr;  // row-major
  int64_t stride = 0;             // elements between its rows
  int64_t k = 0, columns = 0;     // of the packed operand
  void* to = nullptr;
  int64_t to_stride = 0;
  bool stream = false;  // past the caches; the caller fences
};

// One table for each (instruction set, operand dtype). Units are those of tile.h. An odd k ends in
// a unit whose second half is zero; nothing beyond `columns` is written.
struct WeightPackKernels {
  // Rows of the source are the summed dimension: [k, columns].
  void (*rows)(const PackRectangle& r);
  // Columns of the source are: [columns, k].
  void (*transposed)(const PackRectangle& r);
};
const WeightPackKernels& WeightPackKernelsFor(Isa isa, bool bf16);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_WEIGHT_PACK_H_
