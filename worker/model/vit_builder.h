// The pass under construction, shared by vit_forward.cc, vit_head.cc and vit_backward.cc. Not for
// other folders: see vit.h.

#ifndef WORKER_MODEL_VIT_BUILDER_H_
#define WORKER_MODEL_VIT_BUILDER_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/program.h"
#include "worker/model/activations.h"
#include "worker/model/layout.h"

namespace vitscale {

// A LayerNorm's traces for backward.
struct NormTrace {
  TensorView x;  // its input: the residual stream
  TensorView mean, inv_std;
  TensorView y;
  bool y_again = false;  // y is not kept: backward computes it once more
};
struct MlpTrace {
  TensorView pre_activation, hidden;
  bool hidden_again = false;
};
struct BlockTrace {
  NormTrace norm0, norm1;
  TensorView qkv, attention, log_sum_exp;
  MlpTrace mlp;
};
struct HeadTrace {
  // MAP
  TensorView query, key_value, attention, log_sum_exp;
  NormTrace norm;
  MlpTrace mlp;
  // all
  TensorView pooled;          // [batch, width], compute dtype: what the classifier side reads
  TensorView unrounded;       // the same before it is rounded for matmuls; `pooled` where it is not
  TensorView representation;  // [batch, representation_size], after tanh; absent without
  TensorView logits;          // [batch, or images of a piece, classes], f32
};

class VitBuilder {
 public:
  // `training` keeps what backward needs. `accumulate`: gradients and statistics are added to.
  VitBuilder(const ModelLayout& layout, bool training, bool accumulate);

  void Forward();
  // Forward up to what the head would see; gives it: [batch, features], f32 where the pooled token
  // is not rounded, else the compute dtype.
  TensorView Features();
  // Adds to loss and count of the step, or of the evaluation with `valid` weights.
  void Loss();
  void Backward();
  Program Finish();  // without places for activations

 private:
  // ---- forward ----
  void Trunk();
  void EmbedForward();
  void Patches();
  void BlockForward(int i);
  // All of a block but its last matmul, of `stream_` and `delta_`.
  BlockTrace UpToHidden(int i);
  // The block's forward pass once more, of what it was given.
  BlockTrace Again(int i, const TensorView& input);
  void Pool();
  void MapPool();
  void TokenPool();
  void Representation();
  // LayerNorm of the stream after adding what the last half block gave.
  NormTrace Norm(const std::string& at, DType y_dtype);
  NormTrace NormOf(const std::string& at, const TensorView& x, DType y_dtype);
  MlpTrace MlpHidden(const std::string& at, const TensorView& x);

  // ---- classifier: all images, or a piece of them ----
  const TensorView& ClassifierInput() const;
  void LossOf(int64_t first, int64_t count);
  void NewGradOfClassifierInput();
  void ClassifierBackwardOf(int64_t first, int64_t count);

  // ---- backward ----
  TensorView ClassifierBackward();  // gives the gradient of HeadTrace::pooled
  void HeadBackward();
  void MapPoolBackward(const TensorView& grad_pooled);
  void TokenPoolBackward(const TensorView& grad_pooled);
  void ProbeBackward(const TensorView& grad_query);
  void BlockBackward(int i);
  void EmbedBackward();
  void NormBackward(const std::string& at, NormTrace& norm, const TensorView& grad_y,
                    bool last = false);
  TensorView MlpBackwardInput(const std::string& at, MlpTrace& mlp, const TensorView& grad_y,
                              TensorView* grad_hidden);
  TensorView GradInput(const TensorView& grad_y, const std::string& kernel,
                       const TensorView& pre_activation = {}, const TensorView& activation = {});
  void GradWeight(const TensorView& x, const TensorView& grad_y, const std::string& at);
  void GradWeight(const TensorView& x, const TensorView& grad_y, WeightParts kernel,
                  WeightParts bias, bool full_precision = false);

  // ---- operands ----
  // [rows, columns] in Arena::kActivations.
  TensorView New(absl::string_view name, DType dtype, int64_t rows, int64_t columns);
  // Absent where nothing will read it: in evaluation, and in blocks that run again.
  TensorView Kept(absl::string_view name, DType dtype, Shape shape);
  TensorView Weight(const std::string& name) const;  // f32, as it lies in the table
  TensorView Gradient(const std::string& name) const;
  // Kernels as matrices, and biases as vectors.
  WeightParts Kernel(const std::string& name) const;
  WeightParts Bias(const std::string& name) const;
  WeightParts KernelGradient(const std::string& name) const;
  WeightParts BiasGradient(const std::string& name) const;
  // {query, key, value} or {key, value} of one attention, side by side.
  WeightParts Heads(const std::string& at, std::initializer_list<const char*> which, bool kernel,
                    bool gradient) const;
  const Parameter& Find(const std::string& name) const;

  const ModelLayout& layout_;
  const ModelConfig& m_;
  const bool training_, accumulate_;
  const RecomputeLevel recompute_;  // kNone in evaluation
  const DType compute_;
  const int64_t batch_, tokens_, rows_, width_;

  Program program_;
  SymbolicActivations activations_;
  bool keeps_;               // whether Kept keeps
  std::string name_prefix_;  // of activations: "again." while a block runs again

  TensorView patches_;  // traces of the embedding
  std::vector<BlockTrace> blocks_;
  NormTrace encoder_norm_;
  HeadTrace head_;

  TensorView stream_;  // [rows, width]: the residual stream
  TensorView delta_;   // what is to be added to it next; absent at first
  // Gradient of the stream at the current point: f32, and rounded for matmuls (the same tensor when
  // those are f32).
  TensorView grad_stream_, grad_stream_cast_;
  bool in_pieces_ = false;            // the classifier has been gone back through already
  TensorView grad_logits_;            // as logits
  TensorView grad_classifier_input_;  // [batch, features]
};

}  // namespace vitscale

#endif  // WORKER_MODEL_VIT_BUILDER_H_
