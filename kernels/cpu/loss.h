// The two losses on pieces of a row of logits.

#ifndef KERNELS_CPU_LOSS_H_
#define KERNELS_CPU_LOSS_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

enum class GradType : uint8_t { kNone, kF32, kBf16 };

// The first greatest of some values; NaN is never greater.
struct Greatest {
  float value;
  int64_t index;  // from the start of the piece
};

// A piece is `count` >= 1 neighbouring classes. `labels` are the targets y of the piece; null means
// all zero.
struct LossKernels {
  Greatest (*greatest)(const float* values, int64_t count);

  // Returns the sum of -(y log sigmoid(z) + (1 - y) log sigmoid(-z)); grad = weight * (sigmoid(z) -
  // y). Indexed by GradType.
  double (*sigmoid[3])(const float* logits, const float* labels, float weight, void* grad,
                       int64_t count);

  // Returns the sum of e^(z - maximum).
  double (*exp_sum)(const float* logits, float maximum, int64_t count);
  // grad = weight * (e^(z - maximum) * scale - y). Indexed by GradType; none for kNone.
  void (*softmax_grad[3])(const float* logits, const float* labels, float maximum, float scale,
                          float weight, void* grad, int64_t count);
  // Sums of y and of y (maximum - z).
  void (*label_sums)(const float* logits, const float* labels, float maximum, int64_t count,
                     double* label_sum, double* gap_sum);
};
const LossKernels& LossKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_LOSS_H_
