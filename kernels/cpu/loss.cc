// SigmoidLoss and SoftmaxLoss on the CPU. Contract: LossArgs in kernels/ops.h; maths: loss_simd.cc.
//
// An item is an image. A row of logits is walked in chunks of classes, so that a chunk and its
// targets (written out as a dense vector only where a label falls into the chunk) stay in L1
// whatever the width of the head. Loss and hit of every image go to a slot; the second phase adds
// them up in the order of the images.
//
// A class id outside [0, classes) makes the loss NaN: it is never ignored and never writes out of
// bounds.

#include "kernels/cpu/loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "absl/types/span.h"
#include "kernels/cpu/cpu_op.h"

VITSCALE_SIMD_TABLE(LossKernels, kLossKernels, LossKernelsFor)

namespace vitscale::cpu {
namespace {

constexpr int64_t kClassChunk = 1024;

// The targets of one image.
struct Targets {
  absl::Span<const int32_t> ids;  // class ids; empty when dense
  const float* dense = nullptr;   // [classes]
  float weight = 1.0f;            // of each id
};

class LossOp : public CpuOp {
 public:
  LossOp(const LossArgs& args, bool softmax, CpuOpBuilder& builder)
      : kernels_(LossKernelsFor(builder.isa())),
        softmax_(softmax),
        batch_(args.logits.rows()),
        stride_(args.logits.columns()),
        classes_(args.class_count()),
        logits_(builder.Memory<const float>(args.logits)),
        kind_(args.labels.kind),
        ids_(builder.Memory<const int32_t>(args.labels.ids)),
        offsets_(builder.Memory<const int32_t>(args.labels.offsets)),
        dense_(builder.Memory<const float>(args.labels.dense)),
        valid_(builder.Memory<const float>(args.valid)),
        grad_(builder.Memory<std::byte>(args.grad_logits)),
        grad_type_(GradTypeOf(args.grad_logits)),
        grad_bytes_(DTypeBytes(args.grad_logits.dtype)),
        loss_sum_(builder.Memory<double>(args.loss_sum)),
        correct_(builder.Memory<int64_t>(args.correct)),
        accumulate_(args.accumulate),
        losses_(builder.Reserve<double>(batch_)),
        hits_(builder.Reserve<int64_t>(batch_)) {
    builder.RequestScratch(kClassChunk * static_cast<int64_t>(sizeof(float)));
  }

  int phases() const override { return 2; }
  int64_t items(int phase) const override { return phase == 0 ? batch_ : 1; }
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override {
    if (phase == 1) return SumImages();
    float* scratch = reinterpret_cast<float*>(context.scratch);
    for (int64_t image = begin; image < end; ++image) RunImage(image, scratch);
  }

 private:
  static int GradTypeOf(const TensorView& grad) {
    if (!grad.present()) return static_cast<int>(GradType::kNone);
    return static_cast<int>(grad.dtype == DType::kBf16 ? GradType::kBf16 : GradType::kF32);
  }
  void* GradAt(int64_t image, int64_t first) const {
    return grad_ == nullptr ? nullptr : grad_ + (image * stride_ + first) * grad_bytes_;
  }

  void RunImage(int64_t image, float* scratch) {
    const float weight = valid_ == nullptr ? 1.0f : valid_[image];
    if (weight == 0.0f) {  // padding: its logits may be anything, NaN too
      losses_[image] = 0.0;
      hits_[image] = 0;
      if (grad_ != nullptr) std::memset(GradAt(image, 0), 0, stride_ * grad_bytes_);
      return;
    }
    const Targets targets = TargetsOf(image);
    const float* logits = logits_ + image * stride_;
    const Greatest greatest = kernels_.greatest(logits, classes_);
    double loss = softmax_ ? SoftmaxImage(image, targets, greatest.value, weight, scratch)
                           : SigmoidImage(image, targets, weight, scratch);
    if (grad_ != nullptr) {
      std::memset(GradAt(image, classes_), 0, (stride_ - classes_) * grad_bytes_);
    }
    for (const int32_t id : targets.ids) {
      if (id < 0 || id >= classes_) loss = std::numeric_limits<double>::quiet_NaN();
    }
    losses_[image] = weight * loss;
    hits_[image] = IsHit(targets, greatest.index) ? 1 : 0;
  }

  Targets TargetsOf(int64_t image) const {
    switch (kind_) {
      case LabelKind::kClassId:
        return {absl::MakeConstSpan(ids_ + image, 1), nullptr, 1.0f};
      case LabelKind::kDense:
        return {{}, dense_ + image * classes_, 1.0f};
      case LabelKind::kSparse:
        break;
    }
    const int64_t count = offsets_[image + 1] - offsets_[image];
    const float weight = softmax_ && count > 0 ? 1.0f / static_cast<float>(count) : 1.0f;
    return {absl::MakeConstSpan(ids_ + offsets_[image], count), nullptr, weight};
  }

  bool IsHit(const Targets& targets, int64_t index) const {
    if (targets.dense != nullptr) return kernels_.greatest(targets.dense, classes_).index == index;
    return std::find(targets.ids.begin(), targets.ids.end(), index) != targets.ids.end();
  }

  // The targets of classes [first, first + count) as a dense vector; null when all are zero. A
  // class named twice is one target of the sigmoid loss and two of the softmax loss.
  const float* TargetsOfChunk(const Targets& targets, int64_t first, int64_t count,
                              float* scratch) const {
    if (targets.dense != nullptr) return targets.dense + first;
    bool any = false;
    for (const int32_t id : targets.ids) {
      if (id < first || id >= first + count) continue;
      if (!any) std::fill_n(scratch, count, 0.0f);
      any = true;
      scratch[id - first] = softmax_ ? scratch[id - first] + targets.weight : 1.0f;
    }
    return any ? scratch : nullptr;
  }

  double SigmoidImage(int64_t image, const Targets& targets, float weight, float* scratch) {
    double loss = 0.0;
    for (int64_t first = 0; first < classes_; first += kClassChunk) {
      const int64_t count = std::min(kClassChunk, classes_ - first);
      const float* labels = TargetsOfChunk(targets, first, count, scratch);
      loss += kernels_.sigmoid[grad_type_](logits_ + image * stride_ + first, labels, weight,
                                           GradAt(image, first), count);
    }
    return loss;
  }

  double SoftmaxImage(int64_t image, const Targets& targets, float maximum, float weight,
                      float* scratch) {
    const float* logits = logits_ + image * stride_;
    double exp_sum = 0.0, label_sum = 0.0, gap_sum = 0.0;
    for (int64_t first = 0; first < classes_; first += kClassChunk) {
      const int64_t count = std::min(kClassChunk, classes_ - first);
      exp_sum += kernels_.exp_sum(logits + first, maximum, count);
      const float* labels = TargetsOfChunk(targets, first, count, scratch);
      if (labels == nullptr) continue;
      double labels_here = 0.0, gap_here = 0.0;
      kernels_.label_sums(logits + first, labels, maximum, count, &labels_here, &gap_here);
      label_sum += labels_here;
      gap_sum += gap_here;
    }
    if (grad_ != nullptr) {
      const float scale = static_cast<float>(label_sum / exp_sum);
      for (int64_t first = 0; first < classes_; first += kClassChunk) {
        const int64_t count = std::min(kClassChunk, classes_ - first);
        kernels_.softmax_grad[grad_type_](logits + first,
                                          TargetsOfChunk(targets, first, count, scratch), maximum,
                                          scale, weight, GradAt(image, first), count);
      }
    }
    return gap_sum + label_sum * std::log(exp_sum);
  }

  void SumImages() {
    double loss = accumulate_ ? *loss_sum_ : 0.0;
    int64_t correct = accumulate_ ? *correct_ : 0;
    for (int64_t image = 0; image < batch_; ++image) {
      loss += losses_[image];
      correct += hits_[image];
    }
    *loss_sum_ = loss;
    *correct_ = correct;
  }

  const LossKernels& kernels_;
  bool softmax_;
  int64_t batch_, stride_, classes_;
  const float* logits_;
  LabelKind kind_;
  const int32_t* ids_;
  const int32_t* offsets_;
  const float* dense_;
  const float* valid_;
  std::byte* grad_;
  int grad_type_;
  int64_t grad_bytes_;
  double* loss_sum_;
  int64_t* correct_;
  bool accumulate_;
  double* losses_;  // [batch]
  int64_t* hits_;   // [batch]
};

}  // namespace

CpuOpOr MakeCpuOp(const SigmoidLossArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<LossOp>(args, /*softmax=*/false, builder);
}
CpuOpOr MakeCpuOp(const SoftmaxLossArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<LossOp>(args, /*softmax=*/true, builder);
}

}  // namespace vitscale::cpu
