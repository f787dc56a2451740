// LayerNorm over rows: one call walks a few rows that share gamma and beta.
//
// Forward takes two passes over a row for its statistics (mean, then squares of the differences),
// which stay in L1. Backward adds each row's share of grad_gamma and grad_beta to one slot per
// item; share_sum.h folds the slots.

#ifndef KERNELS_CPU_LAYERNORM_H_
#define KERNELS_CPU_LAYERNORM_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

// Pointers to row 0 of the tensors; `begin` and `end` choose rows. Null where the operand is
// absent.
struct LayerNormRows {
  const void* x = nullptr;
  const void* delta = nullptr;  // added to x first; the sum goes to `sum`
  void* sum = nullptr;          // type of x
  const float* gamma = nullptr;
  const float* beta = nullptr;
  void* y = nullptr;
  float* mean = nullptr;
  float* inv_std = nullptr;
  int64_t width = 0;
  float epsilon = 0;
};

struct LayerNormGradRows {
  const void* grad_y = nullptr;
  const void* x = nullptr;
  const float* mean = nullptr;
  const float* inv_std = nullptr;
  const float* gamma = nullptr;
  const float* grad_residual = nullptr;  // may be grad_x
  float* grad_x = nullptr;
  void* grad_x_cast = nullptr;
  const float* beta = nullptr;
  void* y = nullptr;  // forward's y once more
  int64_t width = 0;
};

enum class RowType : uint8_t { kNone, kF32, kBf16 };

struct LayerNormKernels {
  using Forward = void (*)(const LayerNormRows& rows, int64_t begin, int64_t end);
  // shares: [2, width], grad_gamma then grad_beta of rows [begin, end); overwritten.
  using Backward = void (*)(const LayerNormGradRows& rows, int64_t begin, int64_t end,
                            float* shares);

  // x, y and grad_y are never kNone.
  Forward forward[3][3][3];    // [type of x][type of delta][type of y]
  Backward backward[3][3][3];  // [type of x][type of grad_y][type of grad_x_cast]
  // y once more from x and its statistics, as forward gives it to the bit.
  void (*again[3][3])(const LayerNormGradRows& rows, int64_t begin, int64_t end);  // [x][y]
};
const LayerNormKernels& LayerNormKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_LAYERNORM_H_
