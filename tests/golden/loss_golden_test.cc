// The loss ops against optax (loss_golden.py): class ids, several labels, soft targets.

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/golden/golden.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"

namespace vitscale::golden {
namespace {

struct Case {
  std::string name;
  LabelKind kind;
};
const Case kCases[] = {{"one_label", LabelKind::kClassId},   {"one_label", LabelKind::kSparse},
                       {"one_label", LabelKind::kDense},     {"multi_hot", LabelKind::kSparse},
                       {"multi_hot", LabelKind::kDense},     {"of_21843", LabelKind::kSparse},
                       {"of_21843", LabelKind::kDense},      {"extreme", LabelKind::kSparse},
                       {"extreme", LabelKind::kDense},       {"soft", LabelKind::kDense},
                       {"soft_multi_hot", LabelKind::kDense}};
const char* KindName(LabelKind kind) {
  return kind == LabelKind::kClassId ? "class id" : kind == LabelKind::kSparse ? "sparse" : "dense";
}

class LossGoldenTest : public testing::TestWithParam<std::tuple<cpu::Isa, std::string>> {
 protected:
  // The targets as one number per class, where the file has labels.
  Doubles Dense(const Case& c, int64_t batch, int64_t classes) {
    const std::string loss = std::get<1>(GetParam());
    if (file_.Has(absl::StrCat(loss, ".", c.name, ".targets"))) {
      return file_.Values(absl::StrCat(loss, ".", c.name, ".targets"));
    }
    Doubles targets(batch * classes, 0.0);
    const std::vector<int64_t> ids = file_.Integers(c.name + ".ids");
    const std::vector<int64_t> offsets = file_.Integers(c.name + ".offsets");
    for (int64_t b = 0; b < batch; ++b) {
      const double share =
          loss == "softmax" ? 1.0 / static_cast<double>(offsets[b + 1] - offsets[b]) : 1.0;
      for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i) targets[b * classes + ids[i]] = share;
    }
    return targets;
  }

  LossArgs Place(OpBench& bench, const Case& c, int64_t batch, int64_t classes) {
    LossArgs args;
    args.logits =
        bench.Input("logits", DType::kF32, {batch, classes}, file_.Values(c.name + ".logits"));
    args.labels.kind = c.kind;
    if (c.kind == LabelKind::kDense) {
      args.labels.dense = bench.Input("dense", DType::kF32, {batch, classes},
                                      Dense(c, batch, classes), Arena::kInput);
    } else {
      const Doubles ids = file_.Values(c.name + ".ids");
      args.labels.ids =
          bench.Input("ids", DType::kI32, {static_cast<int64_t>(ids.size())}, ids, Arena::kInput);
    }
    if (c.kind == LabelKind::kSparse) {
      args.labels.offsets = bench.Input("offsets", DType::kI32, {batch + 1},
                                        file_.Values(c.name + ".offsets"), Arena::kInput);
    }
    args.grad_logits = bench.Output("grad", DType::kF32, {batch, classes});
    args.loss_sum = bench.Output("loss_sum", DType::kF64, {1}, Arena::kStatistics);
    args.correct = bench.Output("correct", DType::kI64, {1}, Arena::kStatistics);
    return args;
  }

  // Four times the error that jax has in f32, and never below what f32 inputs and outputs cost.
  double Bound(const std::string& key) { return std::max(4 * file_.Scalar(key + "_error"), 2e-7); }

  void Judge(const Case& c, ErrorTable& table) {
    const auto [isa, loss] = GetParam();
    const Shape shape = file_.ShapeOf(c.name + ".logits");
    OpBench bench({isa, DType::kF32});
    const LossArgs args = Place(bench, c, shape[0], shape[1]);
    if (loss == "sigmoid") {
      ASSERT_THAT(bench.Run(SigmoidLossArgs{args}), IsOk());
    } else {
      ASSERT_THAT(bench.Run(SoftmaxLossArgs{args}), IsOk());
    }
    const std::string key = absl::StrCat(loss, ".", c.name);
    for (const char* part : {".value", ".grad"}) {
      const Doubles ours = bench.Values(part[1] == 'v' ? args.loss_sum : args.grad_logits);
      table.Expect(absl::StrCat(loss, " loss", part), RelativeL2(ours, file_.Values(key + part)),
                   Bound(key + part), "relative L2",
                   absl::StrCat(c.name, " as ", KindName(c.kind)));
    }
  }

  GoldenFile file_{"loss"};
};
INSTANTIATE_TEST_SUITE_P(EveryVariant, LossGoldenTest,
                         testing::Combine(testing::ValuesIn(AllInstructionSets()),
                                          testing::Values("sigmoid", "softmax")),
                         [](const auto& info) {
                           return absl::StrCat(cpu::IsaName(std::get<0>(info.param)), "_",
                                               std::get<1>(info.param));
                         });

TEST_P(LossGoldenTest, ValueAndGradientAreThoseOfOptaxForEveryKindOfTarget) {
  ErrorTable table;
  for (const Case& c : kCases) Judge(c, table);
}

}  // namespace
}  // namespace vitscale::golden
