// Logits, loss and every gradient of whole programs on the CPU backend against flax, per head and
// position embedding, in f32 and bf16. Values and error measures: model_golden.py.

#include <algorithm>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/golden/counter_draws.h"
#include "tests/golden/golden.h"
#include "tests/worker/model/replica.h"

namespace vitscale::golden {
namespace {

constexpr uint64_t kParameterSeed = 1;

// Bounds. Truth is flax in f64.
//   f32: 4 times what flax's own f32 is off by; two summation orders differ by less. Floor 2e-7.
//   bf16: twice what flax is off by with the same tensors rounded to bf16, and 2^-5.
//   Key biases have truth 0: relative to the gradient of the query bias beside them.
constexpr double kFloor = 2e-7;
constexpr double kBf16Most = 0x1p-5;

struct Case {
  const char* name;  // as in model_golden.py
  PoolKind pool;
  PositionKind position;
  LossKind loss;
  int representation = 0;
  int channels = 3;
};
const Case kCases[] = {
    {"map_learned_sigmoid", PoolKind::kMap, PositionKind::kLearned, LossKind::kSigmoid},
    {"map_sincos2d_softmax", PoolKind::kMap, PositionKind::kSincos2d, LossKind::kSoftmax},
    {"map_learned_softmax_representation", PoolKind::kMap, PositionKind::kLearned,
     LossKind::kSoftmax, 24, 1},
    {"gap_learned_softmax", PoolKind::kGap, PositionKind::kLearned, LossKind::kSoftmax, 0, 1},
    {"gap_sincos2d_sigmoid", PoolKind::kGap, PositionKind::kSincos2d, LossKind::kSigmoid},
    {"gap_sincos2d_softmax_representation", PoolKind::kGap, PositionKind::kSincos2d,
     LossKind::kSoftmax, 24},
    {"cls_learned_sigmoid", PoolKind::kCls, PositionKind::kLearned, LossKind::kSigmoid},
    {"cls_sincos2d_softmax", PoolKind::kCls, PositionKind::kSincos2d, LossKind::kSoftmax},
    {"cls_learned_sigmoid_representation", PoolKind::kCls, PositionKind::kLearned,
     LossKind::kSigmoid, 24},
};

PlanRequest RequestOf(const Case& c, Precision precision) {
  PlanRequest request;
  request.model.SetShape({.patch = 4, .width = 32, .depth = 2, .heads = 2, .mlp_width = 48});
  request.model.image_size = 14;
  request.model.classes = 5;
  request.model.channels = c.channels;
  request.model.pool = c.pool;
  request.model.position = c.position;
  request.model.loss = c.loss;
  request.model.representation_size = c.representation;
  request.precision = precision;
  request.batch_micro = 4;
  return request;
}

class ModelGoldenTest : public testing::TestWithParam<std::tuple<Case, Precision>> {
 protected:
  static void SetUpTestSuite() {
    table_ = new ErrorTable;
    file_ = new GoldenFile("model");
  }
  static void TearDownTestSuite() {
    delete table_;
    delete file_;
  }

  ModelGoldenTest()
      : case_(std::get<0>(GetParam())),
        precision_(std::get<1>(GetParam())),
        replica_(RequestOf(case_, precision_)) {
    DrawParameters();
    for (int64_t pixel : file_->Integers(Key("images"))) {
      batch_.images.push_back(static_cast<uint8_t>(pixel));
    }
    for (int64_t label : file_->Integers(Key("labels"))) {
      batch_.labels.push_back(static_cast<int32_t>(label));
    }
    batch_.augment.resize(3 * batch_.labels.size());  // no crop, no flip
  }

  // As model_golden.py: one stream for each parameter, in order of their names.
  void DrawParameters() {
    std::vector<const Parameter*> order;
    for (const Parameter& p : replica_.plan.layout.table.parameters()) order.push_back(&p);
    std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->name < b->name; });
    for (size_t i = 0; i < order.size(); ++i) {
      const auto draws =
          UniformDraws(order[i]->elements(), kParameterSeed, static_cast<uint32_t>(i));
      const double middle = absl::EndsWith(order[i]->name, "scale") ? 1 : 0;
      const absl::Span<float> values = replica_.ParameterOf(*order[i]);
      for (size_t j = 0; j < draws.size(); ++j) {
        values[j] = static_cast<float>(double{draws[j]} / 4 + middle);
      }
    }
    replica_.PrepareWeights();
  }

  std::string Key(absl::string_view tensor) const { return absl::StrCat(case_.name, "/", tensor); }

  double Bound(absl::string_view tensor) const {
    const std::vector<double> flax = file_->Values(Key(absl::StrCat("error/", tensor)));
    return precision_ == Precision::kF32 ? std::max(kFloor, 4 * flax[0])
                                         : std::min(kBf16Most, 2 * flax[1]);
  }
  void Expect(absl::string_view what, double error, double bound, absl::string_view tensor) {
    table_->Expect(absl::StrCat(PrecisionName(precision_), " ", what), error, bound, "relative L2",
                   Key(tensor));
  }
  void ExpectTensor(absl::string_view what, const std::string& tensor,
                    absl::Span<const float> actual) {
    Expect(what, RelativeL2(actual, file_->Values(Key(tensor))), Bound(tensor), tensor);
  }
  void ExpectNoGradient(const Parameter& key_bias) {
    const std::string query =
        absl::StrCat(key_bias.name.substr(0, key_bias.name.size() - 8), "query/bias");
    const absl::Span<float> noise = replica_.GradientOf(key_bias);
    Expect("key bias against query bias",
           L2(std::vector<double>(noise.begin(), noise.end())) /
               L2(file_->Values(Key("gradient/" + query))),
           precision_ == Precision::kF32 ? 1e-6 : 0x1p-7, key_bias.name);
  }

  const Case case_;
  const Precision precision_;
  Replica replica_;
  TestBatch batch_;
  static ErrorTable* table_;
  static GoldenFile* file_;
};
ErrorTable* ModelGoldenTest::table_ = nullptr;
GoldenFile* ModelGoldenTest::file_ = nullptr;

TEST_P(ModelGoldenTest, LogitsAndLossAreThoseOfFlax) {
  const std::vector<double> loss = {replica_.Eval(batch_)};
  Expect("loss", RelativeL2(loss, file_->Values(Key("loss"))), Bound("loss"), "loss");
  ExpectTensor("logits", "logits", replica_.Logits());
}

TEST_P(ModelGoldenTest, EveryGradientIsThatOfFlax) {
  replica_.Step(batch_);
  size_t compared = 0;
  for (const Parameter& p : replica_.plan.layout.table.parameters()) {
    const std::string tensor = "gradient/" + p.name;
    ASSERT_EQ(file_->ShapeOf(Key(tensor)), p.shape) << p.name;
    ++compared;
    p.is_key_bias ? ExpectNoGradient(p) : ExpectTensor("gradient", tensor, replica_.GradientOf(p));
  }
  const std::vector<std::string> names = file_->Names();
  EXPECT_EQ(compared, std::count_if(names.begin(), names.end(), [&](const std::string& name) {
              return absl::StartsWith(name, Key("gradient/"));
            }));
}

INSTANTIATE_TEST_SUITE_P(EveryHeadAndPosition, ModelGoldenTest,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values(Precision::kF32, Precision::kBf16)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name, "_",
                                               PrecisionName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace vitscale::golden
