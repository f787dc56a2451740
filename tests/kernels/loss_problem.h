// One labelled problem for the loss ops, and its operands: for the CPU's test and for CUDA's.
//
//   const LossProblem p = MakeLossProblem(LabelKind::kSparse, 9, 100, /*valid=*/true);
//   OpBench bench(variant, threads);                       // or an OpPair
//   const LossArgs args = AddLossOperands(p, DType::kF32, bench);
//   EXPECT_THAT(RunLoss(args, TestLoss::kSoftmax, bench), IsOk());

#ifndef TESTS_KERNELS_LOSS_PROBLEM_H_
#define TESTS_KERNELS_LOSS_PROBLEM_H_

#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "tests/kernels/kernels_test_util.h"

namespace vitscale {

enum class TestLoss { kSigmoid, kSoftmax };
inline constexpr TestLoss kEveryLoss[] = {TestLoss::kSigmoid, TestLoss::kSoftmax};
inline constexpr LabelKind kEveryLabelKind[] = {LabelKind::kClassId, LabelKind::kSparse,
                                                LabelKind::kDense};
inline constexpr DType kNoGradient = DType::kU8;

struct LossProblem {
  int64_t batch = 0, classes = 0;
  Doubles logits;  // [batch, classes]
  LabelKind kind = LabelKind::kClassId;
  Doubles ids, offsets;  // kClassId, kSparse
  Doubles dense;         // kDense
  Doubles valid;         // empty: absent
  double padding = 0.0;  // what padded logits hold there
  bool padded = false;
};

// Rows of `columns` values, each followed by `filler` up to the padded width.
inline Doubles PaddedRows(const Doubles& values, int64_t columns, double filler) {
  Doubles padded;
  for (auto row = values.begin(); row != values.end(); row += columns) {
    padded.insert(padded.end(), row, row + columns);
    padded.resize(padded.size() + PadColumns(columns) - columns, filler);
  }
  return padded;
}

// 0 to 3 labels an image, and the first of three once more; last comes capacity that nobody owns.
inline void AddSparseLabels(const Doubles& picks, LossProblem& p) {
  p.offsets.push_back(0);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = 0; i < b % 4; ++i) p.ids.push_back(std::floor(picks[4 * b + i]));
    if (b % 4 == 3) p.ids.push_back(p.ids[p.ids.size() - 3]);
    p.offsets.push_back(static_cast<double>(p.ids.size()));
  }
  p.ids.push_back(-1);
}

// `valid`: images 1, 4, 7, … are padding.
inline LossProblem MakeLossProblem(LabelKind kind, int64_t batch, int64_t classes, bool valid) {
  LossProblem p{batch, classes};
  p.logits = Rounded(NormalValues(batch * classes, 4.0, 7), DType::kF32);
  p.kind = kind;
  const Doubles picks = UniformValues(4 * batch, 0, static_cast<double>(classes), 8);
  if (kind == LabelKind::kClassId) {
    for (int64_t b = 0; b < batch; ++b) p.ids.push_back(std::floor(picks[b]));
  } else if (kind == LabelKind::kSparse) {
    AddSparseLabels(picks, p);
  } else {
    p.dense = Rounded(UniformValues(batch * classes, 0.0, 1.0, 9), DType::kF32);
  }
  for (int64_t b = 0; valid && b < batch; ++b) p.valid.push_back(b % 3 == 1 ? 0.0 : 1.0);
  return p;
}

// Gives the even classes of image `b` that are no label the logit `impossible`, but for the last.
inline void MakeImpossible(LossProblem& p, int64_t b, double impossible = -INFINITY) {
  const auto is_label = [&](int64_t c) {
    if (p.kind == LabelKind::kDense) return p.dense[b * p.classes + c] != 0;
    const bool sparse = p.kind == LabelKind::kSparse;
    const auto first = static_cast<int64_t>(sparse ? p.offsets[b] : static_cast<double>(b));
    const auto last = static_cast<int64_t>(sparse ? p.offsets[b + 1] : static_cast<double>(b + 1));
    for (int64_t i = first; i < last; ++i) {
      if (p.ids[i] == static_cast<double>(c)) return true;
    }
    return false;
  };
  for (int64_t c = 0; c + 1 < p.classes; c += 2) {
    if (!is_label(c)) p.logits[b * p.classes + c] = impossible;
  }
}

// The sums begin at 100 and 1000, for those who add to them. kNoGradient: as in evaluation.
template <typename Bench>
LossArgs AddLossOperands(const LossProblem& p, DType grad_type, Bench& bench) {
  const Shape shape = {p.batch, p.padded ? PadColumns(p.classes) : p.classes};
  LossArgs args;
  args.logits = bench.Input("logits", DType::kF32, shape,
                            p.padded ? PaddedRows(p.logits, p.classes, p.padding) : p.logits);
  if (p.padded) args.classes = p.classes;
  args.labels.kind = p.kind;
  if (p.kind == LabelKind::kDense) {
    args.labels.dense = bench.Input("dense", DType::kF32, {p.batch, p.classes}, p.dense, Arena::kInput);
  } else {
    args.labels.ids =
        bench.Input("ids", DType::kI32, {static_cast<int64_t>(p.ids.size())}, p.ids, Arena::kInput);
  }
  if (p.kind == LabelKind::kSparse) {
    args.labels.offsets =
        bench.Input("offsets", DType::kI32, {p.batch + 1}, p.offsets, Arena::kInput);
  }
  if (!p.valid.empty()) {
    args.valid = bench.Input("valid", DType::kF32, {p.batch}, p.valid, Arena::kInput);
  }
  if (grad_type != kNoGradient) args.grad_logits = bench.Output("grad_logits", grad_type, shape);
  args.loss_sum = bench.Input("loss_sum", DType::kF64, {1}, {100.0}, Arena::kStatistics);
  args.correct = bench.Input("correct", DType::kI64, {1}, {1000.0}, Arena::kStatistics);
  return args;
}

template <typename Bench>
absl::Status RunLoss(const LossArgs& args, TestLoss loss, Bench& bench) {
  return loss == TestLoss::kSigmoid ? bench.Run(SigmoidLossArgs{args})
                                    : bench.Run(SoftmaxLossArgs{args});
}

}  // namespace vitscale

#endif  // TESTS_KERNELS_LOSS_PROBLEM_H_
