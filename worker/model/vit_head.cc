// VitBuilder: the classifier, the loss, and backward through both. Source: big_vision
// models/vit.py.
//
// Logits of a wide head are the largest tensor of a step that takes many images: 4,096 of 29,593
// classes are 0.5 GB, and their gradients half as much. Above ModelLayout::head_rows images the
// head therefore goes piece by piece, each piece forward and at once back: only the classifier's
// input, the gradient of that, and sums outlive a piece. Such a step's backward pass through the
// classifier counts to the phase "forward".

#include <algorithm>

#include "worker/model/vit_builder.h"

namespace vitscale {
namespace {

// Entries [first, first + count) along the outermost axis; absent stays absent.
TensorView Rows(TensorView view, int64_t first, int64_t count) {
  if (!view.present()) return view;
  view.offset += first * (view.bytes() / view.shape.front());
  view.shape.front() = count;
  return view;
}

Labels RowsOfLabels(Labels labels, int64_t first, int64_t count) {
  if (labels.kind == LabelKind::kClassId) labels.ids = Rows(labels.ids, first, count);
  labels.offsets = Rows(labels.offsets, first, count + 1);  // of all ids, whoever's they are
  labels.dense = Rows(labels.dense, first, count);
  return labels;
}

}  // namespace

const TensorView& VitBuilder::ClassifierInput() const {
  return head_.representation.present() ? head_.representation : head_.pooled;
}

void VitBuilder::Loss() {
  const int64_t rows = layout_.head_rows > 0 ? std::min(layout_.head_rows, batch_) : batch_;
  in_pieces_ = rows < batch_;
  head_.logits = New("logits", DType::kF32, rows, layout_.logit_columns());
  if (training_) grad_logits_ = New("grad_logits", compute_, rows, layout_.logit_columns());
  if (training_ && in_pieces_) NewGradOfClassifierInput();
  for (int64_t first = 0; first < batch_; first += rows) {
    const int64_t count = std::min(rows, batch_ - first);
    LossOf(first, count);
    if (training_ && in_pieces_) ClassifierBackwardOf(first, count);
  }
}

void VitBuilder::LossOf(int64_t first, int64_t count) {
  LossArgs loss;
  loss.classes = m_.classes;
  loss.logits = Rows(head_.logits, 0, count);
  program_.Add(LinearArgs{.x = Rows(ClassifierInput(), first, count),
                          .weight = Kernel("head/kernel"),
                          .bias = Bias("head/bias"),
                          .y = loss.logits});
  const StatisticsViews& statistics = layout_.statistics;
  loss.labels = RowsOfLabels(layout_.input.labels, first, count);
  loss.accumulate = accumulate_ || first > 0;
  loss.loss_sum = training_ ? statistics.loss_sum : statistics.eval_loss_sum;
  loss.correct = training_ ? statistics.correct : statistics.eval_correct;
  loss.grad_logits = Rows(grad_logits_, 0, count);
  if (!training_) loss.valid = Rows(layout_.input.valid, first, count);
  if (m_.loss == LossKind::kSigmoid) {
    program_.Add(SigmoidLossArgs{loss});
  } else {
    program_.Add(SoftmaxLossArgs{loss});
  }
}

// ---- backward ----------------------------------------------------------------

void VitBuilder::NewGradOfClassifierInput() {
  // The MAP head's own residual path carries the gradient of the pooled token on in f32.
  const bool carried = m_.pool == PoolKind::kMap && m_.representation_size == 0;
  grad_classifier_input_ = carried ? New("grad.pooled", DType::kF32, batch_, width_)
                                   : New("grad.head/kernel", compute_, batch_, m_.head_input());
}

void VitBuilder::ClassifierBackwardOf(int64_t first, int64_t count) {
  const TensorView grad_y = Rows(grad_logits_, 0, count);
  program_.Add(LinearGradWeightArgs{.x = Rows(ClassifierInput(), first, count),
                                    .grad_y = grad_y,
                                    .grad_weight = KernelGradient("head/kernel"),
                                    .grad_bias = BiasGradient("head/bias"),
                                    .accumulate = accumulate_ || first > 0});
  program_.Add(LinearGradInputArgs{.grad_y = grad_y,
                                   .weight = Kernel("head/kernel"),
                                   .grad_x = Rows(grad_classifier_input_, first, count)});
}

TensorView VitBuilder::ClassifierBackward() {
  if (!in_pieces_) {
    NewGradOfClassifierInput();
    ClassifierBackwardOf(0, batch_);
  }
  if (m_.representation_size == 0) return grad_classifier_input_;
  const TensorView grad = New("grad.pre_logits", compute_, batch_, m_.representation_size);
  program_.Add(TanhGradArgs{grad_classifier_input_, head_.representation, grad});
  GradWeight(head_.pooled, grad, "pre_logits");
  if (m_.pool != PoolKind::kMap) return GradInput(grad, "pre_logits/kernel");
  const TensorView grad_pooled = New("grad.pooled", DType::kF32, batch_, width_);
  program_.Add(LinearGradInputArgs{
      .grad_y = grad, .weight = Kernel("pre_logits/kernel"), .grad_x = grad_pooled});
  return grad_pooled;
}

}  // namespace vitscale
