// Where everything lies that outlives one op: parameters and gradients (through the param table),
// buckets, what the host writes before a micro-batch and what it reads after a step. MakePlan
// (worker/plan/plan.h) makes it, the builders of vit.h read it.

#ifndef WORKER_MODEL_LAYOUT_H_
#define WORKER_MODEL_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "worker/model/model_config.h"
#include "worker/model/optimizer_config.h"
#include "worker/model/param_table.h"

namespace vitscale {

// A slice of the gradient arena that is reduced as one. Whole tensors only; bucket 0 is ready
// first.
struct Bucket {
  int64_t offset_bytes = 0;
  int64_t bytes = 0;
};

// What backward computes again instead of reading it. Results are the same to the bit.
enum class RecomputeLevel : uint8_t {
  kAuto,              // chosen by the planner, see ChooseRecompute; never in a layout
  kNone,              // everything is kept
  kGeluAndLayerNorm,  // outputs of GELU and LayerNorm, and the patches: elementwise work only
  kBlock,             // everything but each block's input: its forward pass runs again
};
constexpr const char* RecomputeName(RecomputeLevel level) {
  constexpr const char* kNames[] = {"auto", "none", "gelu_layernorm", "block"};
  return kNames[static_cast<int>(level)];
}

// Arena::kInput, for one micro-batch.
struct InputViews {
  TensorView images;    // [batch, source height, source width, channels], u8
  TensorView augment;   // [batch, 3], i32: top, left, flip
  Labels labels;        // kClassId: ids [batch], i32
  TensorView valid;     // [batch], f32; read by evaluation only
  TensorView position;  // [patches, width], f32, sincos2d only: written once (WriteConstants)
};

// Arena::kStatistics. Every view is [1].
struct StatisticsViews {
  TensorView loss_sum;  // f64: sum over the images of this rank's micro-batches of the step
  TensorView correct;   // i64
  TensorView gradient_square_sum;   // f64: of the reduced, scaled gradient before the clip
  TensorView parameter_square_sum;  // f64: after the update
  TensorView update_square_sum;     // f64
  TensorView digest;                // i64
  TensorView eval_loss_sum;         // f64
  TensorView eval_correct;          // i64
};

struct ModelLayout {
  ModelConfig model;
  Precision precision = Precision::kF32;  // never kAuto
  OptimizerKind optimizer = OptimizerKind::kAdafactor;
  bool polyak = false;
  bool training = true;  // false: parameters only, and programs that do not change them
  RecomputeLevel recompute = RecomputeLevel::kNone;
  int64_t batch = 0;  // images of a micro-batch
  int64_t head_rows =
      0;  // images whose logits exist at a time; below `batch` it is a multiple of 64.
          // 0: all. Gradients of the classifier are then summed piece by piece
  bool padded_logits = false;  // rows of logits and of their gradient are padded, as cards like it
  int64_t logit_columns() const {
    return padded_logits ? PadColumns(model.classes) : model.classes;
  }
  float range_min = -1.0f, range_max = 1.0f;
  ParamTable table;
  std::vector<Bucket> buckets;
  InputViews input;
  StatisticsViews statistics;
};

}  // namespace vitscale

#endif  // WORKER_MODEL_LAYOUT_H_
