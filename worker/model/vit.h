// The Vision Transformer as programs. Nothing runs while a program is built, and nothing is
// allocated: activations get their places by lifetime (activations.h).
//
// Precision: matmul inputs in the compute dtype, the MAP head's included; the probe's own
// projection and everything between matmuls that is not an input of one (residual stream, LayerNorm
// statistics, softmax, loss) in f32. The last Linear takes the compute dtype and gives f32 logits.
//
// A step of one rank with n micro-batches is: BuildPrepare's program whenever parameters were
// written from outside; then BuildStep's programs in turn ({first} … {last}); then, after the
// exchange and the gate, BuildUpdate's. Every builder is a pure function of its arguments.

#ifndef WORKER_MODEL_VIT_H_
#define WORKER_MODEL_VIT_H_

#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/program.h"
#include "worker/model/layout.h"

namespace vitscale {

// Place of a micro-batch among those that one rank runs in a step.
struct MicroBatch {
  bool first = true;  // overwrites gradients and statistics instead of adding to them
  bool last = true;   // carries GradientsReady(bucket) markers, in bucket order
};

// Forward, loss and backward of one micro-batch. Reads input; writes gradients and
// statistics.loss_sum, .correct.
Program BuildStep(const ModelLayout& layout, MicroBatch micro_batch);

// Part 2 of a step: statistics of the reduced gradient, then the optimizer, the compute copies of
// the weights that it wrote and, where kept, the average. No collective. Obeys StepScalars::apply.
Program BuildUpdate(const ModelLayout& layout, const OptimizerConfig& optimizer);

// Makes the compute copies of all weights that matmuls use, after an initialisation or a load.
Program BuildPrepare(const ModelLayout& layout);

// Forward and loss with `input.valid` as weights; adds to statistics.eval_loss_sum and
// .eval_correct unless `first`.
Program BuildEval(const ModelLayout& layout, bool first);

// Forward up to what the head sees: the pooled token, or the representation layer where there is
// one. The pooled token of a MAP head is in f32, before it is rounded for the head's matmul.
// Source: big_vision models/vit.py, "pre_logits".
struct FeatureProgram {
  Program program;
  TensorView features;  // [batch, width or representation_size], f32 or bf16; valid after a run
};
FeatureProgram BuildFeatures(const ModelLayout& layout);

// statistics.digest = digest of parameters, momentum and second moment, gaps included; of the
// parameters where the layout is not for training.
Program BuildDigest(const ModelLayout& layout);

// What the model needs in Arena::kInput for ever: the sincos2d positions. Once after Allocate;
// nothing for learned positions.
absl::Status WriteConstants(const ModelLayout& layout, Backend& backend);

// [patches, width] row-major: per token sin(x w), cos(x w), sin(y w), cos(y w) with w_i = 10000^(-i
// / (width/4 - 1)), x the column and y the row of the patch. Source: big_vision models/vit.py
// posemb_sincos_2d.
std::vector<float> Sincos2dPositions(const ModelConfig& model);

}  // namespace vitscale

#endif  // WORKER_MODEL_VIT_H_
