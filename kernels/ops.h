// The op list: everything a step of training or evaluation is made of. One args struct per op.
//
// Conventions. `rows` = batch * tokens, image by image, tokens in order. Matmul weights are [in, out] as in Flax;
// a weight may be given in parts that lie side by side along `out` (query, key and value are three tensors).
// "compute dtype" is bf16 or f32, the same for all matmul inputs of a program; accumulation is always f32.
// LayerNorm statistics, softmax, loss, the gradient of the residual stream and every gradient of a parameter are f32;
// so is the residual stream itself unless the model asks for bf16.
// Gradients are sums over images; 1 / batch_global is applied by the optimizer (StepScalars::gradient_scale).
// `accumulate`: add to what the gradient holds (second and later micro-batches) instead of overwriting it.
// No result depends on the number of threads: every reduction has fixed tiles, summed in index order.
// Optional operands are absent views (TensorView::present() is false).
// Logits and their gradient may be padded: rows of PadColumns(classes) elements, so that each begins where tensor
// cores load from. The padding of logits is undefined and counts for nothing, that of their gradient is 0.

#ifndef KERNELS_OPS_H_
#define KERNELS_OPS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "kernels/tensor.h"

namespace vitscale {

// A weight [in, out] in one to three parts along `out`; every part is f32 in Arena::kParameters. The backend keeps
// compute copies (packed, in the compute dtype) for every weight that a Linear or LinearGradInput names, and makes
// them anew when PrepareWeights runs.
using WeightParts = absl::InlinedVector<TensorView, 3>;
// `out` of all parts together.
inline int64_t Columns(const WeightParts& parts) {
  int64_t columns = 0;
  for (const TensorView& part : parts) columns += part.columns();
  return columns;
}

// Columns of a padded row: the next multiple of 16 bytes of bf16.
inline constexpr int64_t kPaddedColumns = 8;
constexpr int64_t PadColumns(int64_t columns) {
  return (columns + kPaddedColumns - 1) / kPaddedColumns * kPaddedColumns;
}

// ---- input ---------------------------------------------------------------------------------------------------

// Cuts uint8 images into patches: crop, optional horizontal flip, linear map of [0, 255] to [range_min, range_max].
// The patch vector index is (py * patch + px) * channels + channel; tokens are row-major over the grid. The grid
// is floor(crop / patch) in each direction (VALID).
struct ImagesToPatchesArgs {
  TensorView images;   // [batch, height, width, channels], u8
  TensorView augment;  // [batch, 3], i32: top, left of the crop; 1 to flip, 0 not
  int64_t crop_height = 0, crop_width = 0;
  int64_t patch = 0;
  float range_min = -1.0f, range_max = 1.0f;
  TensorView patches;  // [rows, patch * patch * channels], compute dtype
};

// tokens = patch embedding + position; with a class token, row 0 of each image is `class_token`, which gets no
// position. Source: big_vision models/vit.py (position is added before the class token).
struct EmbedTokensArgs {
  TensorView embedding;    // [batch * patches, width], compute dtype: output of the patch Linear, bias included
  TensorView position;     // [patches, width], f32; learned or sincos2d
  TensorView class_token;  // [width], f32, optional
  int64_t batch = 0;
  TensorView tokens;       // [batch * (patches + class), width], f32 or bf16: the residual stream
};
struct EmbedTokensGradArgs {
  TensorView grad_tokens;       // [batch * (patches + class), width], f32
  int64_t batch = 0;
  TensorView grad_embedding;    // [batch * patches, width], compute dtype
  TensorView grad_position;     // [patches, width], f32, optional (absent for sincos2d); ordered sum over the batch
  TensorView grad_class_token;  // [width], f32, optional
  bool accumulate = false;
};

// ---- linear --------------------------------------------------------------------------------------------------

enum class LinearEpilogue : uint8_t {
  kNone,       // y = x W + bias
  kGelu,       // pre_activation = x W + bias; y = gelu_tanh(pre_activation)
  kResidual,   // y = residual + x W + bias
};
struct LinearArgs {
  TensorView x;               // [rows, in], compute dtype
  WeightParts weight;         // [in, out]
  WeightParts bias;           // [out] in as many parts, f32; empty: none
  LinearEpilogue epilogue = LinearEpilogue::kNone;
  TensorView residual;        // kResidual: [rows, out], f32
  TensorView pre_activation;  // kGelu: [rows, out], compute dtype; absent in evaluation
  TensorView y;               // [rows, out], compute dtype or f32 (kResidual: f32; may be `residual` itself;
                              // kNone: or padded)
  bool full_precision = false;  // multiply in f32 whatever the compute dtype (heads in f32); x may then be f32
};
// grad_x = grad_y W^T; with `pre_activation` present, times gelu_tanh'(pre_activation). With `activation` present
// too, the GELU itself is computed again, to the bit as the forward pass did: a step that did not keep it needs it
// for the weight gradient behind this op.
struct LinearGradInputArgs {
  TensorView grad_y;          // [rows, out], compute dtype; or padded
  WeightParts weight;         // [in, out]
  TensorView pre_activation;  // [rows, in], compute dtype, optional
  TensorView grad_x;          // [rows, in], compute dtype or f32
  bool full_precision = false;
  TensorView activation;      // [rows, in], dtype of grad_x, optional: gelu_tanh(pre_activation); may be the same
                              // tensor, whose value is then gone
};
// grad_weight = x^T grad_y, grad_bias = column sums of grad_y; both f32, split over threads by output columns.
// Runs outside panels: it needs all rows.
struct LinearGradWeightArgs {
  TensorView x;             // [rows, in], compute dtype
  TensorView grad_y;        // [rows, out], compute dtype; or padded
  WeightParts grad_weight;  // [in, out] in parts, f32, in Arena::kGradients
  WeightParts grad_bias;    // [out] in parts, f32; empty: none
  bool accumulate = false;
  bool full_precision = false;
};

// ---- normalisation -------------------------------------------------------------------------------------------

// y = (x - mean) * inv_std * gamma + beta over the last axis, with inv_std = 1 / sqrt(var + epsilon).
// Source: Ba et al. 2016, arXiv:1607.06450, section 3; variance over N, not N - 1, in two passes over the row.
struct LayerNormArgs {
  TensorView x;           // [rows, width], f32 or bf16
  TensorView gamma;       // [width], f32
  TensorView beta;        // [width], f32
  float epsilon = 1e-6f;  // added to the variance
  TensorView y;           // [rows, width], compute dtype or f32
  TensorView mean;        // [rows], f32, kept for backward; optional in evaluation
  TensorView inv_std;     // [rows], f32, kept for backward; optional in evaluation
};
// sum = x + delta; y = LayerNorm(sum). The trunk's form: `delta` is what attention or the MLP gave. Added in f32; a
// bf16 sum is rounded before it is normalised, so that LayerNorm of the stored sum gives the same bits.
struct ResidualLayerNormArgs {
  TensorView x;      // [rows, width], f32 or bf16
  TensorView delta;  // [rows, width], compute dtype or f32
  TensorView sum;    // [rows, width], dtype of x; may be x itself
  TensorView gamma, beta;
  float epsilon = 1e-6f;
  TensorView y;
  TensorView mean, inv_std;
};
// Backward of both. grad_x = grad_residual + d LayerNorm / dx (grad_y). For ResidualLayerNorm grad_x is the gradient
// of `x` and of `delta` alike, and `x` here is its `sum`. With `y` present, y is computed again, to the bit as the
// forward pass did: a step that did not keep it needs it for the weight gradient behind this op.
struct LayerNormGradArgs {
  TensorView grad_y;         // [rows, width], compute dtype or f32
  TensorView x;              // [rows, width], f32 or bf16: input of the normalisation
  TensorView mean, inv_std;  // [rows], f32
  TensorView gamma;          // [width], f32
  TensorView grad_residual;  // [rows, width], f32, optional: gradient that reaches x by the residual path
  TensorView grad_x;         // [rows, width], f32; may be grad_residual itself
  TensorView grad_x_cast;    // [rows, width], compute dtype, optional: the same, rounded, for the next matmul
  TensorView grad_gamma;     // [width], f32
  TensorView grad_beta;      // [width], f32
  bool accumulate = false;
  TensorView beta;           // [width], f32; present if y is
  TensorView y;              // [rows, width], compute dtype or f32, optional
};

// ---- attention -----------------------------------------------------------------------------------------------

// out = softmax(q k^T / sqrt(head_dim)) v, per image and head. Head dims 16 and 32 to 128 in steps of 8 (others
// that are a multiple of 8 run too, slower).
struct SelfAttentionArgs {
  TensorView qkv;          // [rows, 3 * width], compute dtype: q | k | v, heads side by side in each
  int64_t batch = 0, tokens = 0, heads = 0;
  TensorView out;          // [rows, width], compute dtype
  TensorView log_sum_exp;  // [batch, heads, tokens], f32, of the scaled scores; optional in evaluation
};
struct SelfAttentionGradArgs {
  TensorView grad_out;     // [rows, width], compute dtype
  TensorView qkv;          // [rows, 3 * width]
  TensorView out;          // [rows, width]
  TensorView log_sum_exp;  // [batch, heads, tokens]
  int64_t batch = 0, tokens = 0, heads = 0;
  TensorView grad_qkv;     // [rows, 3 * width], compute dtype
};
// The MAP head's attention (arXiv 2106.04560 section 3.2): one query per head, the same for every image, so it is
// projected once per step and never tiled over the batch. Bound by memory, not by arithmetic.
struct PoolAttentionArgs {
  TensorView query;        // [1, width], f32: the projected probe
  TensorView key_value;    // [rows, 2 * width], compute dtype: k | v
  int64_t batch = 0, tokens = 0, heads = 0;
  TensorView out;          // [batch, width], compute dtype
  TensorView log_sum_exp;  // [batch, heads], f32; optional in evaluation
};
struct PoolAttentionGradArgs {
  TensorView grad_out;     // [batch, width], compute dtype
  TensorView query, key_value, out, log_sum_exp;
  int64_t batch = 0, tokens = 0, heads = 0;
  TensorView grad_query;      // [1, width], f32: ordered sum over the batch of this micro-batch (never accumulates)
  TensorView grad_key_value;  // [rows, 2 * width], compute dtype
};

// ---- pooling and small parts -----------------------------------------------------------------------------------

struct MeanPoolArgs {          // y[b] = mean over tokens of x[b]
  TensorView x;                // [batch * tokens, width], compute dtype or f32
  int64_t batch = 0, tokens = 0;
  TensorView y;                // [batch, width], compute dtype or f32
};
struct MeanPoolGradArgs {
  TensorView grad_y;           // [batch, width]
  int64_t batch = 0, tokens = 0;
  TensorView grad_x;           // [batch * tokens, width]
};
struct SelectTokenArgs {       // y[b] = x[b, token]
  TensorView x;                // [batch * tokens, width]
  int64_t batch = 0, tokens = 0, token = 0;
  TensorView y;                // [batch, width]
};
struct SelectTokenGradArgs {   // grad_x is zero but for `token`
  TensorView grad_y;
  int64_t batch = 0, tokens = 0, token = 0;
  TensorView grad_x;
};
struct TanhArgs { TensorView x, y; };
struct TanhGradArgs { TensorView grad_y, y, grad_x; };  // grad_x = grad_y * (1 - y^2)

// ---- loss --------------------------------------------------------------------------------------------------------

enum class LabelKind : uint8_t { kClassId, kSparse, kDense };
struct Labels {
  LabelKind kind = LabelKind::kClassId;
  TensorView ids;      // kClassId: [batch], i32. kSparse: [label_capacity], i32
  TensorView offsets;  // kSparse: [batch + 1], i32: image b owns ids[offsets[b] .. offsets[b + 1])
  TensorView dense;    // kDense: [batch, classes], f32
};
// Sum over images and classes of -(y log sigmoid(z) + (1 - y) log sigmoid(-z)); grad_logits = sigmoid(z) - y.
// Source: big_vision utils.sigmoid_xent (there averaged over the batch).
// correct: images whose argmax (the first greatest) is one of their labels (kDense: the argmax of the label).
struct LossArgs {
  TensorView logits;       // [batch, classes], f32; or padded
  int64_t classes = 0;     // 0: logits.columns(), without padding
  Labels labels;
  TensorView valid;        // [batch], f32, optional: weight 0 leaves an image out (padding of the last batch)
  TensorView grad_logits;  // shape of logits, compute dtype or f32; absent in evaluation
  TensorView loss_sum;     // [1], f64, in Arena::kStatistics
  TensorView correct;      // [1], i64, in Arena::kStatistics
  bool accumulate = false; // of loss_sum and correct
  int64_t class_count() const { return classes == 0 ? logits.columns() : classes; }
};
struct SigmoidLossArgs : LossArgs {};
// Sum over images of -sum_c y_c log softmax(z)_c; sparse labels count 1 / (number of labels) each.
struct SoftmaxLossArgs : LossArgs {};

// ---- optimizer -----------------------------------------------------------------------------------------------------

// Second-moment layout of one tensor, decided by worker/model (arXiv 2106.04560 section 3.4; optax factorized.py):
// factored when ndim >= 2 and the second-largest dim >= 32. axis_column is d0 (the largest dim), axis_row is d1
// (second largest); all other axes are batch axes. v_row has the shape without d0, v_col the shape without d1;
// they lie one after the other in second_moment, v_row first.
struct Factoring {
  bool factored = false;
  int axis_d0 = -1;
  int axis_d1 = -1;
};
struct OptimizedTensor {
  TensorView parameter;      // f32, Flax shape
  TensorView gradient;       // f32, same shape
  TensorView momentum;       // bf16, same shape
  TensorView second_moment;  // f32 [elements] or [row elements + column elements]; absent for SGD
  TensorView average;        // f32, same shape; absent without Polyak averaging
  Factoring factoring;
  double learning_rate = 0;  // base lr times this tensor's multiplier
  double weight_decay = 0;   // lr-multiplied already: the step takes schedule * weight_decay * parameter off
};
// Pass 1: the norm of the whole gradient, and row and column sums of squares of factored tensors. Reads g once.
// Non-finite anywhere makes gradient_square_sum non-finite. Scaled: every g counts as gradient_scale * g.
struct GradStatsArgs {
  std::vector<OptimizedTensor> tensors;
  TensorView gradient_square_sum;  // [1], f64, in Arena::kStatistics
  TensorView factored_sums;        // [second-moment elements of all factored tensors], f32, in Arena::kActivations
};
// Pass 2: reads g, momentum and master once. If the norm n of the scaled gradient is >= clip_norm, g counts as
// g * clip_norm / n. All-zero gradients give zero updates, never NaN. Adafactor: beta2 = StepScalars::beta2;
// epsilon 1e-30 inside the moving average; no bias correction, no update clipping; the update uses the momentum
// before it is rounded to bf16. Source: big_vision optax.py scale_by_adafactor; optax factorized.py.
// The stored momentum is multiplied by beta1 rounded to bf16 (0.9 becomes 0.8984375) and the product is not rounded;
// a new value weighs 1 - beta1 with beta1 as given: what XLA makes of optax 0.2.8 with a bf16 accumulator.
// Skips everything (no bit changes) when StepScalars::apply is 0 or the norm is not finite.
struct OptimizerArgs {
  std::vector<OptimizedTensor> tensors;
  TensorView gradient_square_sum;
  TensorView factored_sums;
  double beta1 = 0.9;  // of the momentum; see above
  float clip_norm = 1.0f;  // 0: no clip
  TensorView parameter_square_sum;  // [1], f64, optional: of the parameters after the update
  TensorView update_square_sum;     // [1], f64, optional: of the update taken off
};
struct AdafactorApplyArgs : OptimizerArgs {};
struct AdamWApplyArgs : OptimizerArgs {  // optax.scale_by_adam: bias-corrected, eps outside the root; m in bf16
  double beta2 = 0.999;
  float epsilon = 1e-8f;
};
struct SgdApplyArgs : OptimizerArgs {};  // m = beta1 * m + g (heavy ball, no Nesterov); update = m

// ---- housekeeping ----------------------------------------------------------------------------------------------------

// Makes the compute copies of every weight that this program's matmuls use. Runs first in a program whose
// parameters may have changed (after an update, a load, a synchronisation).
struct PrepareWeightsArgs { std::vector<WeightParts> weights; };
struct PolyakAverageArgs {  // average = decay * average + (1 - decay) * parameter
  TensorView parameters, average;
  float decay = 0.9999f;
};
// 64-bit digest of the bytes of `inputs` in order; the same for any thread count and any backend.
struct DigestArgs {
  std::vector<TensorView> inputs;
  TensorView digest;  // [1], i64, in Arena::kStatistics
};
struct FillArgs { TensorView y; double value = 0; };
struct CopyArgs { TensorView x, y; };  // same dtype and element count
struct CastArgs { TensorView x, y; };  // bf16 <-> f32, round to nearest even

// ---- markers ---------------------------------------------------------------------------------------------------------

// Between PanelBegin and PanelEnd every op works image by image; a CPU backend may run the whole group on a few
// images at a time, so that what one op writes is still in cache when the next reads it. Tensors of a group
// must not share memory with each other. LinearGradWeight, losses and optimizer ops stand outside.
struct PanelBeginArgs { int64_t batch = 0; };
struct PanelEndArgs {};
struct GradientsReadyArgs { int bucket = 0; };  // every gradient of this bucket is final on this rank
struct PhaseArgs { std::string name; };         // "forward", "backward", "optimizer", …: what follows counts to it

}  // namespace vitscale

#endif  // KERNELS_OPS_H_
