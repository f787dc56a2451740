// SigmoidLoss and SoftmaxLoss on CUDA. Contract: LossArgs in kernels/ops.h. Reference:
// kernels/cpu/loss.cc.
//
//   variant          chosen when                 memory traffic per logit (gradient in bf16)
//   sigmoid, simple  rows are not of 4 classes   read 4 B once, write 2 B; 4 B at a time
//   sigmoid, vector  otherwise                   the same, 16 B at a time
//   softmax, simple  rows are not of 4 classes   read 4 B twice (then from L2), write 2 B
//   softmax, vector  otherwise                   the same, 16 B at a time
//
// Rows are padded by plans for cards, so that any number of classes is taken 16 B at a time; dense
// labels are not. A logit of padding counts as one of -inf that is no target, its gradient is 0.
//
// A block owns an image and walks its classes once: nothing but a few sums is kept, so a head may
// have any width, and logits of some images at a time are enough. Dense labels are read along: 4 B
// more. Loss and hit of an image go to a slot; a second launch adds the slots. 4,096 images of
// 29,600 classes: 727 MB, 217 us at 3.35 TB/s.
//
// Who owns which classes and how labels are found: loss_labels.h. Losses of a group of neighbouring
// classes are added in f32, all else in f64. A logit of -inf is a class that cannot be: where it is
// no target, y z counts as 0.

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/fast_math.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/floats.h"
#include "kernels/cuda/loss_labels.h"

namespace vitscale::cuda {
namespace {

constexpr int kThreadsMax = 256;

// ---- sigmoid ------------------------------------------------------------------------------------

struct SigmoidTerm {
  float loss, gradient;
};
// As kernels/cpu/loss_simd.cc has it: exact for right answers too.
__device__ inline SigmoidTerm Sigmoid(float z, float y) {
  const float t = expf(-fabsf(z));
  const float inverse = FastDivide(1.0f, 1.0f + t);
  const float at_z = z < 0.0f ? t * inverse : inverse;        // sigmoid(z)
  const float at_minus_z = z < 0.0f ? inverse : t * inverse;  // 1 - sigmoid(z)
  const float right = y == 0.0f ? 0.0f : y * z;
  return {fmaxf(z, 0.0f) - right + log1pf(t), (1.0f - y) * at_z - y * at_minus_z};
}

template <int kVec, typename Grad>
__global__ void __launch_bounds__(kThreadsMax) SigmoidImage(LossRows rows) {
  auto& shared = SharedMemory<LossShared>();
  const int64_t image = blockIdx.x;
  const float weight = rows.valid == nullptr ? 1.0f : rows.valid[image];
  if (weight == 0.0f) return LeaveOut<kVec, Grad>(rows, image);
  const Targets targets = TargetsOf<false>(rows, image);
  const bool owns_label = OwnsLabel<kVec>(targets);
  const float* logits = rows.logits + image * rows.stride;
  Greatest answer = NoneYet<kVec>(), dense_answer = NoneYet<kVec>();
  double loss = 0.0;
  const int step = static_cast<int>(blockDim.x) * kVec;
  for (int c = static_cast<int>(threadIdx.x) * kVec; c < rows.stride; c += step) {
    const Floats<kVec> z = LogitsAt<kVec>(logits, c, rows.classes);
    const Floats<kVec> y = TargetsAt<false, kVec>(targets, owns_label, c, rows.classes);
    Floats<kVec> gradient;
    float part = 0.0f;
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const SigmoidTerm term = Sigmoid(z[i], y[i]);
      part += term.loss;
      gradient[i] = weight * term.gradient;
      answer.See(z[i], c + i);
      if (targets.dense != nullptr && c < rows.classes) dense_answer.See(y[i], c + i);
    }
    loss += static_cast<double>(part);
    if constexpr (kIsPresent<Grad>) {
      StoreFloats(static_cast<Grad*>(rows.grad) + image * rows.stride + c,
                  WithoutPadding(gradient, c, rows.classes, 0.0f));
    }
  }
  const Answers answers = AnswersOf(answer, dense_answer, targets, shared);
  KeepImage(rows, image, targets, answers, weight, BlockSum(loss, shared.sums));
}

// ---- softmax ------------------------------------------------------------------------------------

// Sums over classes in one pass: exp_sum is relative to the greatest logit so far.
struct SoftmaxSums {
  float maximum;
  double exp_sum, label_sum, label_logit_sum;  // of e^(z - maximum), y, y z

  template <int kVec>
  __device__ void Add(const Floats<kVec>& z) {
    float greatest = maximum, part = 0.0f;
#pragma unroll
    for (int i = 0; i < kVec; ++i) greatest = z[i] > greatest ? z[i] : greatest;
    if (greatest > maximum) {  // never on the way from -inf to -inf, which would give NaN
      exp_sum *= static_cast<double>(expf(maximum - greatest));
      maximum = greatest;
    }
    const float base = maximum == -INFINITY ? 0.0f : maximum;
#pragma unroll
    for (int i = 0; i < kVec; ++i) part += expf(z[i] - base);
    exp_sum += static_cast<double>(part);
  }
  __device__ void AddLabel(float y, float z) {
    if (y == 0.0f) return;
    label_sum += static_cast<double>(y);
    label_logit_sum += static_cast<double>(y) * static_cast<double>(z);
  }
  __device__ void OverBlock(float greatest, LossShared& shared) {
    exp_sum = BlockSum(exp_sum * static_cast<double>(expf(maximum - greatest)), shared.sums);
    label_sum = BlockSum(label_sum, shared.sums);
    label_logit_sum = BlockSum(label_logit_sum, shared.sums);
    maximum = greatest;
  }
  // -sum of y log softmax(z).
  __device__ double Loss() const {
    return static_cast<double>(maximum) * label_sum - label_logit_sum + label_sum * log(exp_sum);
  }
};

template <int kVec, typename Grad>
__device__ inline void SoftmaxGradient(const LossRows& rows, int64_t image, const Targets& targets,
                                       bool owns_label, const SoftmaxSums& sums, float weight) {
  const float* logits = rows.logits + image * rows.stride;
  Grad* grad = static_cast<Grad*>(rows.grad) + image * rows.stride;
  const float scale = static_cast<float>(sums.label_sum / sums.exp_sum);
  const int step = static_cast<int>(blockDim.x) * kVec;
  for (int c = static_cast<int>(threadIdx.x) * kVec; c < rows.stride; c += step) {
    const Floats<kVec> z = LogitsAt<kVec>(logits, c, rows.classes);
    Floats<kVec> gradient = TargetsAt<true, kVec>(targets, owns_label, c, rows.classes);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      gradient[i] = (expf(z[i] - sums.maximum) * scale - gradient[i]) * weight;
    }
    StoreFloats(grad + c, WithoutPadding(gradient, c, rows.classes, 0.0f));
  }
}

template <int kVec, typename Grad>
__global__ void __launch_bounds__(kThreadsMax) SoftmaxImage(LossRows rows) {
  auto& shared = SharedMemory<LossShared>();
  const int64_t image = blockIdx.x;
  const float weight = rows.valid == nullptr ? 1.0f : rows.valid[image];
  if (weight == 0.0f) return LeaveOut<kVec, Grad>(rows, image);
  const Targets targets = TargetsOf<true>(rows, image);
  const bool owns_label = OwnsLabel<kVec>(targets);
  const float* logits = rows.logits + image * rows.stride;
  Greatest answer = NoneYet<kVec>(), dense_answer = NoneYet<kVec>();
  SoftmaxSums sums{-INFINITY, 0.0, 0.0, 0.0};
  const int step = static_cast<int>(blockDim.x) * kVec;
  for (int c = static_cast<int>(threadIdx.x) * kVec; c < rows.stride; c += step) {
    const Floats<kVec> z = LogitsAt<kVec>(logits, c, rows.classes);
    sums.Add(z);
#pragma unroll
    for (int i = 0; i < kVec; ++i) answer.See(z[i], c + i);
    if (targets.dense == nullptr || c >= rows.classes) continue;
    const Floats<kVec> y = LoadFloats<kVec>(targets.dense + c);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      sums.AddLabel(y[i], z[i]);
      dense_answer.See(y[i], c + i);
    }
  }
  for (int64_t i = threadIdx.x; i < targets.count; i += blockDim.x) {
    const int id = targets.ids[i];
    if (id >= 0 && id < rows.classes) sums.AddLabel(targets.weight, logits[id]);
  }
  const Answers answers = AnswersOf(answer, dense_answer, targets, shared);
  sums.OverBlock(answers.logits.value, shared);
  if constexpr (kIsPresent<Grad>) {
    SoftmaxGradient<kVec, Grad>(rows, image, targets, owns_label, sums, weight);
  }
  KeepImage(rows, image, targets, answers, weight, sums.Loss());
}

// ---- sums over images ---------------------------------------------------------------------------

struct SumShared {
  WarpSlots<double> losses;
  WarpSlots<int64_t> hits;
};

__global__ void __launch_bounds__(kThreadsMax)
    SumImages(const double* losses, const int64_t* hits, int64_t batch, bool accumulate,
              double* loss_sum, int64_t* correct) {
  auto& shared = SharedMemory<SumShared>();
  double loss = 0.0;
  int64_t hit = 0;
  for (int64_t image = threadIdx.x; image < batch; image += blockDim.x) {
    loss += losses[image];
    hit += hits[image];
  }
  loss = BlockSum(loss, shared.losses);
  hit = BlockSum(hit, shared.hits);
  if (threadIdx.x != 0) return;
  *loss_sum = (accumulate ? *loss_sum : 0.0) + loss;
  *correct = (accumulate ? *correct : 0) + hit;
}

// ---- launcher -----------------------------------------------------------------------------------

template <bool kSoftmax, int kVec>
void (*KernelFor(const TensorView& grad))(LossRows) {
  return WithType(grad, [](auto type) -> void (*)(LossRows) {
    if constexpr (kSoftmax) return SoftmaxImage<kVec, decltype(type)>;
    return SigmoidImage<kVec, decltype(type)>;
  });
}

LossRows RowsOf(const LossArgs& args, CudaOpBuilder& builder) {
  const int64_t batch = args.logits.rows();
  const bool dense = args.labels.kind == LabelKind::kDense;
  const bool sparse = args.labels.kind == LabelKind::kSparse;
  return {.logits = builder.Memory<const float>(args.logits),
          .ids = dense ? nullptr : builder.Memory<const int32_t>(args.labels.ids),
          .offsets = sparse ? builder.Memory<const int32_t>(args.labels.offsets) : nullptr,
          .dense = dense ? builder.Memory<const float>(args.labels.dense) : nullptr,
          .valid = builder.Memory<const float>(args.valid),
          .grad = builder.Memory<void>(args.grad_logits),
          .losses = builder.Reserve<double>(batch),
          .hits = builder.Reserve<int64_t>(batch),
          .batch = batch,
          .id_count = dense ? 0 : args.labels.ids.elements(),
          .classes = static_cast<int>(args.class_count()),
          .stride = static_cast<int>(args.logits.columns())};
}

template <bool kSoftmax>
CudaOpOr MakeLoss(const LossArgs& args, CudaOpBuilder& builder) {
  const LossRows rows = RowsOf(args, builder);
  // Groups of four, and those of dense labels, begin at multiples of 16 bytes.
  const bool vector = rows.stride % 4 == 0 && (rows.dense == nullptr || rows.classes % 4 == 0);
  const auto kernel =
      vector ? KernelFor<kSoftmax, 4>(args.grad_logits) : KernelFor<kSoftmax, 1>(args.grad_logits);
  const int64_t groups = CeilDivide(rows.stride, vector ? 4 : 1);
  const auto threads = static_cast<unsigned>(
      std::min<int64_t>(kThreadsMax, CeilDivide(groups, kWarpLanes) * kWarpLanes));
  double* loss_sum = builder.Memory<double>(args.loss_sum);
  int64_t* correct = builder.Memory<int64_t>(args.correct);
  return MakeOp(
      vector ? "vector" : absl::StrCat("simple: ", rows.classes, " classes are no multiple of 4"),
      [=, accumulate = args.accumulate](const RunContext& context) {
        VITSCALE_RETURN_IF_ERROR(Launch(kernel, dim3(Blocks(rows.batch)), dim3(threads),
                                        sizeof(LossShared), context.stream, rows));
        return Launch(SumImages, dim3(1), dim3(kThreadsMax), sizeof(SumShared), context.stream,
                      rows.losses, rows.hits, rows.batch, accumulate, loss_sum, correct);
      });
}

}  // namespace

CudaOpOr MakeCudaOp(const SigmoidLossArgs& args, CudaOpBuilder& builder) {
  return MakeLoss<false>(args, builder);
}
CudaOpOr MakeCudaOp(const SoftmaxLossArgs& args, CudaOpBuilder& builder) {
  return MakeLoss<true>(args, builder);
}

}  // namespace vitscale::cuda
