// The vector kernels of GradStats and of the optimizers. Contract of the ops: kernels/ops.h.

#ifndef KERNELS_CPU_OPTIMIZER_H_
#define KERNELS_CPU_OPTIMIZER_H_

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

// A piece of one factored gradient: `rows` rows along axis a (factored_shape.h), each a run of
// `columns` neighbours made of whole segments. A segment is a run over axis b and what lies inside
// it.
struct StatsTile {
  const float* gradient = nullptr;
  float scale = 1.0f;  // every g counts as scale * g
  int64_t rows = 0;
  int64_t row_stride = 0;  // elements
  int64_t columns = 0;
  int64_t segment = 0;           // divides columns
  int64_t inner = 1;             // divides segment
  float* column_sums = nullptr;  // [columns]
  float* row_sums = nullptr;     // [rows, columns / segment, inner], rows row_sum_stride apart
  int64_t row_sum_stride = 0;
};

// A number as the sum of two floats: what it multiplies is rounded once.
struct SplitFloat {
  float value = 0.0f, rest = 0.0f;
  SplitFloat() = default;
  explicit SplitFloat(double number)
      : value(static_cast<float>(number)), rest(static_cast<float>(number - value)) {}
};

// What every element of an update has in common.
struct UpdateScalars {
  double gradient_scale_exact = 1.0;  // 1 / batch and the clip in one
  SplitFloat gradient_scale;          // the same
  float momentum_decay = 0.0f;
  float gradient_share = 0.0f;  // what a new update weighs in the momentum
  double beta2 = 0.0;           // of factored second moments, which are averaged in f64
  SplitFloat moment_decay;      // of full ones: beta2
  SplitFloat square_share;      // what a new square weighs in them: 1 - beta2
  SplitFloat learning_rate;  // this and the next: times the schedule
  float weight_decay = 0.0f;
  float momentum_correction = 1.0f;  // AdamW: 1 / (1 - beta1^t), 1 / (1 - beta2^t), epsilon
  float moment_correction = 1.0f;
  float epsilon = 0.0f;
};

// Neighbouring elements of one tensor.
struct UpdateSpan {
  const float* gradient = nullptr;
  Bf16* momentum = nullptr;
  float* parameter = nullptr;
  float* second_moment = nullptr;  // full second moment; null for SGD and factored tensors
  int64_t count = 0;
};
// Rows along axis a of one factored tensor; element (row, segment, j, k) of the raw gradient adds
// row_factors[row, segment, k] * column_factors[segment, j, k] times itself to the momentum.
struct FactoredSpan {
  UpdateSpan elements;  // count = rows * columns
  int64_t rows = 0, columns = 0, segment = 0, inner = 1;
  const float* row_factors = nullptr;
  const float* column_factors = nullptr;
};

// Sums of squares that a tile adds up when they are asked for.
struct UpdateSums {
  double parameter = 0.0;
  double update = 0.0;
};

struct OptimizerKernels {
  // Writes the sums of squares of the tile's columns and rows; returns the sum of all.
  double (*factored_stats)(const StatsTile& tile);
  double (*square_sum)(const float* gradient, float scale, int64_t count);

  // v = beta2 v + (1 - beta2) (sums * scale + 1e-30), in f64 and rounded once.
  void (*decay_moment)(const float* sums, double scale, double beta2, float* v, int64_t count);

  // `sums` may be null. Each updates momentum, parameter and second moment of its elements.
  void (*adafactor)(const UpdateScalars& scalars, const UpdateSpan& span, UpdateSums* sums);
  void (*adafactor_factored)(const UpdateScalars& scalars, const FactoredSpan& span,
                             UpdateSums* sums);
  void (*adamw)(const UpdateScalars& scalars, const UpdateSpan& span, UpdateSums* sums);
  void (*sgd)(const UpdateScalars& scalars, const UpdateSpan& span, UpdateSums* sums);
};
const OptimizerKernels& OptimizerKernelsFor(Isa isa);

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_OPTIMIZER_H_
