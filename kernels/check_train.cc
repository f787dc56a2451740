// Checks of losses, the optimizer and housekeeping.

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/op_checker.h"

namespace vitscale {
namespace {

constexpr DTypes kAnyDType = {0x3f};
constexpr DTypes kOnlyF64 = Only(DType::kF64);
constexpr DTypes kOnlyI32 = Only(DType::kI32);
constexpr DTypes kOnlyI64 = Only(DType::kI64);

void CheckLabels(const Labels& labels, int64_t batch, int64_t classes, OpChecker& c) {
  switch (labels.kind) {
    case LabelKind::kClassId:
      c.Is(labels.ids, "labels.ids", kOnlyI32, {batch});
      return;
    case LabelKind::kSparse:
      c.Is(labels.ids, "labels.ids", kOnlyI32, {kAny});
      c.Is(labels.offsets, "labels.offsets", kOnlyI32, {batch + 1});
      return;
    case LabelKind::kDense:
      c.Is(labels.dense, "labels.dense", kOnlyF32, {batch, classes});
      return;
  }
}

void CheckLoss(const LossArgs& a, OpChecker& c) {
  c.OutsideGroups();
  c.Is(a.logits, "logits", kOnlyF32, {kAny, kAny});
  if (!c.ok()) return;
  const int64_t batch = a.logits.shape[0], columns = a.logits.shape[1];
  const int64_t classes = a.class_count();
  c.Require(classes == columns || (classes > 0 && PadColumns(classes) == columns),
            absl::StrCat("classes is ", classes, ", want that logits have as many columns, or ",
                         "padded ones: they have ", columns));
  CheckLabels(a.labels, batch, classes, c);
  c.Maybe(a.valid, "valid", kOnlyF32, {batch});
  c.Maybe(a.grad_logits, "grad_logits", kComputeOrF32, {batch, columns});
  c.Is(a.loss_sum, "loss_sum", kOnlyF64, {1});
  c.InArena(a.loss_sum, "loss_sum", Arena::kStatistics);
  c.Is(a.correct, "correct", kOnlyI64, {1});
  c.InArena(a.correct, "correct", Arena::kStatistics);
}

// Elements of v_row and v_col together, see Factoring.
int64_t FactoredElements(const OptimizedTensor& t) {
  const int64_t elements = t.parameter.elements();
  return elements / t.parameter.shape[t.factoring.axis_d0] +
         elements / t.parameter.shape[t.factoring.axis_d1];
}

// d0 is the largest axis and d1 the second largest; of equal ones the later counts as larger
// (stable argsort).
void CheckFactoring(const OptimizedTensor& t, const std::string& noun, OpChecker& c) {
  const Shape& shape = t.parameter.shape;
  std::vector<int> order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return shape[a] < shape[b]; });
  const int n = static_cast<int>(order.size());
  c.Require(n >= 2, absl::StrCat(noun, ".factoring is on for ", n, " axes, want at least 2"));
  if (!c.ok()) return;
  c.Require(t.factoring.axis_d0 == order[n - 1] && t.factoring.axis_d1 == order[n - 2],
            absl::StrCat(noun, ".factoring has axes d0 = ", t.factoring.axis_d0,
                         ", d1 = ", t.factoring.axis_d1, ", want the two largest, ", order[n - 1],
                         " and ", order[n - 2]));
}

// Returns the second-moment elements if the tensor is factored.
int64_t CheckOptimized(const OptimizedTensor& t, int index, bool state, bool second_moment,
                       OpChecker& c) {
  const std::string noun = absl::StrCat("tensors[", index, "]");
  c.Is(t.gradient, absl::StrCat(noun, ".gradient"), kOnlyF32, t.gradient.shape);
  c.Is(t.parameter, absl::StrCat(noun, ".parameter"), kOnlyF32, t.gradient.shape);
  if (!c.ok()) return 0;
  if (t.factoring.factored) CheckFactoring(t, noun, c);
  if (!c.ok()) return 0;
  const int64_t factored = t.factoring.factored ? FactoredElements(t) : 0;
  if (!state) return factored;
  c.Is(t.momentum, absl::StrCat(noun, ".momentum"), Only(DType::kBf16), t.gradient.shape);
  c.Maybe(t.average, absl::StrCat(noun, ".average"), kOnlyF32, t.gradient.shape);
  if (second_moment) {
    c.Is(t.second_moment, absl::StrCat(noun, ".second_moment"), kOnlyF32, {kAny});
    const int64_t want = t.factoring.factored ? factored : t.gradient.elements();
    c.Require(t.second_moment.elements() == want,
              absl::StrCat(noun, ".second_moment has ", t.second_moment.elements(),
                           " elements, want ", want));
  }
  return factored;
}

void CheckFactoredSums(const TensorView& sums, int64_t elements, OpChecker& c) {
  if (elements > 0) c.Is(sums, "factored_sums", kOnlyF32, {elements});
}

void CheckOptimizer(const OptimizerArgs& a, bool second_moment, bool uses_factored, OpChecker& c) {
  c.OutsideGroups();
  int64_t factored = 0;
  for (size_t i = 0; i < a.tensors.size() && c.ok(); ++i) {
    factored += CheckOptimized(a.tensors[i], static_cast<int>(i), true, second_moment, c);
    c.Require(uses_factored || !a.tensors[i].factoring.factored,
              absl::StrCat("tensors[", i, "] is factored, want not: only Adafactor factors"));
  }
  c.Is(a.gradient_square_sum, "gradient_square_sum", kOnlyF64, {1});
  if (uses_factored) CheckFactoredSums(a.factored_sums, factored, c);
  c.Maybe(a.parameter_square_sum, "parameter_square_sum", kOnlyF64, {1});
  c.Maybe(a.update_square_sum, "update_square_sum", kOnlyF64, {1});
  c.Require(a.clip_norm >= 0, absl::StrCat("clip_norm is ", a.clip_norm, ", want at least 0"));
  c.Require(a.beta1 >= 0 && a.beta1 < 1, absl::StrCat("beta1 is ", a.beta1, ", want 0 to below 1"));
}

}  // namespace

void Check(const SigmoidLossArgs& a, OpChecker& c) { CheckLoss(a, c); }
void Check(const SoftmaxLossArgs& a, OpChecker& c) { CheckLoss(a, c); }

void Check(const GradStatsArgs& a, OpChecker& c) {
  c.OutsideGroups();
  int64_t factored = 0;
  for (size_t i = 0; i < a.tensors.size() && c.ok(); ++i) {
    factored += CheckOptimized(a.tensors[i], static_cast<int>(i), false, false, c);
  }
  c.Is(a.gradient_square_sum, "gradient_square_sum", kOnlyF64, {1});
  CheckFactoredSums(a.factored_sums, factored, c);
}

void Check(const AdafactorApplyArgs& a, OpChecker& c) { CheckOptimizer(a, true, true, c); }
void Check(const AdamWApplyArgs& a, OpChecker& c) {
  CheckOptimizer(a, true, false, c);
  c.Require(a.beta2 >= 0 && a.beta2 < 1, absl::StrCat("beta2 is ", a.beta2, ", want 0 to below 1"));
}
void Check(const SgdApplyArgs& a, OpChecker& c) { CheckOptimizer(a, false, false, c); }

void Check(const PrepareWeightsArgs& a, OpChecker& c) {
  c.OutsideGroups();
  for (size_t i = 0; i < a.weights.size() && c.ok(); ++i) {
    const std::string noun = absl::StrCat("weights[", i, "]");
    const int64_t in =
        a.weights[i].empty() || a.weights[i][0].shape.empty() ? kAny : a.weights[i][0].shape[0];
    c.PartsWidth(a.weights[i], noun, in, Arena::kParameters);
  }
}

void Check(const PolyakAverageArgs& a, OpChecker& c) {
  c.OutsideGroups();
  c.Is(a.parameters, "parameters", kOnlyF32, a.parameters.shape);
  c.Is(a.average, "average", kOnlyF32, a.parameters.shape);
  c.Require(a.decay >= 0 && a.decay <= 1, absl::StrCat("decay is ", a.decay, ", want 0 to 1"));
}

void Check(const DigestArgs& a, OpChecker& c) {
  c.OutsideGroups();
  for (size_t i = 0; i < a.inputs.size() && c.ok(); ++i) {
    c.Is(a.inputs[i], absl::StrCat("inputs[", i, "]"), kAnyDType, a.inputs[i].shape);
  }
  c.Is(a.digest, "digest", kOnlyI64, {1});
}

void Check(const FillArgs& a, OpChecker& c) {
  c.OutsideGroups();
  c.Is(a.y, "y", kAnyDType, a.y.shape);
}
void Check(const CopyArgs& a, OpChecker& c) {
  c.OutsideGroups();
  c.Is(a.x, "x", kAnyDType, a.x.shape);
  c.Is(a.y, "y", Only(a.x.dtype), a.y.shape);
  c.Require(a.x.elements() == a.y.elements(),
            absl::StrCat("y has ", a.y.elements(), " elements, want ", a.x.elements()));
}
void Check(const CastArgs& a, OpChecker& c) {
  c.Is(a.x, "x", kComputeOrF32, a.x.shape);
  c.Is(a.y, "y", kComputeOrF32, a.x.shape);
  c.RowsInGroup(a.x.rows(), "x");
}

}  // namespace vitscale
