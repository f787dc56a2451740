#include "worker/model/param_table.h"

#include <cmath>
#include <set>

#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::ElementsAre;

ModelConfig Variant(const std::string& name, int classes, PoolKind pool = PoolKind::kMap) {
  ModelConfig model;
  model.SetShape(VariantByName(name).value());
  model.classes = classes;
  model.pool = pool;
  return model;
}
ParamTable Table(const ModelConfig& model, OptimizerKind optimizer = OptimizerKind::kAdafactor) {
  return ParamTable(model, optimizer);
}
constexpr int kJftClasses = 29593;

// ---- counts ------------------------------------------------------------------

// Exact counts with MAP head and JFT's 29,593 classes (arXiv 2106.04560 table 2 counts the trunk
// alone).
TEST(ParamTableTest, ParameterCountsEqualThePaperModelsToTheDigit) {
  const struct {
    const char* name;
    int64_t count;
  } cases[] = {{"g/14", 1078144921},
               {"G/14", 1930404761},
               {"B/16", 115641241},
               {"S/16", 34832281},
               {"Ti/16", 11680153}};
  for (const auto& c : cases) {
    EXPECT_EQ(Table(Variant(c.name, kJftClasses)).parameter_count(), c.count) << c.name;
  }
}

// Patch embedding, positions at 224, encoder and final norm, in thousands: recomputed for arXiv
// 2106.04560 table 2.
TEST(ParamTableTest, TrunkCountsEqualThePaperTable) {
  const struct {
    const char* name;
    int64_t trunk_thousands;
  } cases[] = {{"s/28", 5358},   {"s/16", 4986},    {"S/32", 22493},  {"Ti/16", 5524},
               {"B/32", 87454},  {"S/16", 21665},   {"B/28", 86912},  {"B/16", 85797},
               {"L/16", 303300}, {"g/14", 1011200}, {"G/14", 1842772}};
  for (const auto& c : cases) {
    const ModelConfig model = Variant(c.name, 1, PoolKind::kGap);
    const int64_t trunk = Table(model).parameter_count() - (model.width + 1);
    EXPECT_EQ((trunk + 500) / 1000, c.trunk_thousands) << c.name;
  }
}

TEST(ParamTableTest, SecondMomentFloatsFollowTheFactoringRule) {
  EXPECT_EQ(Table(Variant("G/14", kJftClasses)).second_moment_count(), 8690098);
  EXPECT_EQ(Table(Variant("g/14", kJftClasses)).second_moment_count(), 6209202);
  EXPECT_EQ(Table(Variant("B/16", 1000)).second_moment_count(), 1343892);
}

TEST(ParamTableTest, AdamWKeepsAFullSecondMomentAndSgdNone) {
  const ModelConfig model = Variant("Ti/16", 1000);
  const ParamTable adamw = Table(model, OptimizerKind::kAdamW),
                   sgd = Table(model, OptimizerKind::kSgd);
  EXPECT_EQ(adamw.second_moment_count(), adamw.parameter_count());
  EXPECT_EQ(sgd.second_moment_count(), 0);
  EXPECT_FALSE(sgd.SecondMomentView(sgd.parameters()[0]).present());
}

// ---- factoring ---------------------------------------------------------------

TEST(FactoringTest, AttentionIsFactoredPerHeadOverHeadDimAndWidth) {
  const Factoring query = FactoringOf({1664, 16, 104});
  EXPECT_TRUE(query.factored);
  EXPECT_EQ(query.axis_d0, 0);
  EXPECT_EQ(query.axis_d1, 2);
  EXPECT_EQ(SecondMomentElements({1664, 16, 104}, query), 28288);
  const Factoring out = FactoringOf({16, 104, 1664});
  EXPECT_EQ(out.axis_d0, 2);
  EXPECT_EQ(out.axis_d1, 1);
}

TEST(FactoringTest, OfEqualDimsTheLaterAxisCountsAsLarger) {
  const Factoring square = FactoringOf({64, 64});
  EXPECT_EQ(square.axis_d0, 1);
  EXPECT_EQ(square.axis_d1, 0);
  const Factoring patch = FactoringOf({32, 32, 3, 768});
  EXPECT_EQ(patch.axis_d0, 3);
  EXPECT_EQ(patch.axis_d1, 1);
  EXPECT_EQ(SecondMomentElements({32, 32, 3, 768}, patch), 76800);
}

TEST(FactoringTest, TensorsWhoseSecondLargestDimIsBelow32AreNotFactored) {
  EXPECT_FALSE(FactoringOf({14, 14, 3, 1664}).factored);
  EXPECT_FALSE(FactoringOf({1664}).factored);
  EXPECT_FALSE(FactoringOf({16, 104}).factored);
  EXPECT_FALSE(FactoringOf({1, 1, 1664}).factored);
  EXPECT_TRUE(FactoringOf({1, 256, 1664}).factored);
  EXPECT_TRUE(FactoringOf({32, 64}).factored);
}

// ---- names, shapes, groups ---------------------------------------------------

std::vector<std::string> Names(const ModelConfig& model) {
  const ParamTable table = Table(model);
  std::vector<std::string> names;
  for (const Parameter& p : table.parameters()) names.push_back(p.name);
  return names;
}

TEST(ParamTableTest, NamesAreThoseOfBigVision) {
  EXPECT_THAT(
      Names(Variant("mu/16", 10)),
      ElementsAre("embedding/kernel", "embedding/bias", "pos_embedding",
                  "Transformer/encoderblock_0/LayerNorm_0/scale",
                  "Transformer/encoderblock_0/LayerNorm_0/bias",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/bias",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/key/kernel",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/key/bias",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/value/kernel",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/value/bias",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/out/kernel",
                  "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/out/bias",
                  "Transformer/encoderblock_0/LayerNorm_1/scale",
                  "Transformer/encoderblock_0/LayerNorm_1/bias",
                  "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel",
                  "Transformer/encoderblock_0/MlpBlock_0/Dense_0/bias",
                  "Transformer/encoderblock_0/MlpBlock_0/Dense_1/kernel",
                  "Transformer/encoderblock_0/MlpBlock_0/Dense_1/bias",
                  "Transformer/encoder_norm/scale", "Transformer/encoder_norm/bias",
                  "MAPHead_0/probe", "MAPHead_0/MultiHeadDotProductAttention_0/query/kernel",
                  "MAPHead_0/MultiHeadDotProductAttention_0/query/bias",
                  "MAPHead_0/MultiHeadDotProductAttention_0/key/kernel",
                  "MAPHead_0/MultiHeadDotProductAttention_0/key/bias",
                  "MAPHead_0/MultiHeadDotProductAttention_0/value/kernel",
                  "MAPHead_0/MultiHeadDotProductAttention_0/value/bias",
                  "MAPHead_0/MultiHeadDotProductAttention_0/out/kernel",
                  "MAPHead_0/MultiHeadDotProductAttention_0/out/bias",
                  "MAPHead_0/LayerNorm_0/scale", "MAPHead_0/LayerNorm_0/bias",
                  "MAPHead_0/MlpBlock_0/Dense_0/kernel", "MAPHead_0/MlpBlock_0/Dense_0/bias",
                  "MAPHead_0/MlpBlock_0/Dense_1/kernel", "MAPHead_0/MlpBlock_0/Dense_1/bias",
                  "head/kernel", "head/bias"));
}

TEST(ParamTableTest, ClassTokenRepresentationAndFixedPositionsChangeTheList) {
  ModelConfig model = Variant("mu/16", 10, PoolKind::kCls);
  model.position = PositionKind::kSincos2d;
  model.representation_size = 24;
  const ParamTable table = Table(model);
  EXPECT_EQ(table.Find("pos_embedding"), nullptr);
  EXPECT_EQ(table.Find("MAPHead_0/probe"), nullptr);
  EXPECT_EQ(table.Find("cls")->shape, (Shape{1, 1, 32}));
  EXPECT_EQ(table.Find("pre_logits/kernel")->shape, (Shape{32, 24}));
  EXPECT_EQ(table.Find("head/kernel")->shape, (Shape{24, 10}));
}

TEST(ParamTableTest, ShapesAreThoseOfFlax) {
  const ParamTable table = Table(Variant("S/16", 1000));
  const std::string attention = "Transformer/encoderblock_11/MultiHeadDotProductAttention_0/";
  EXPECT_EQ(table.Find("embedding/kernel")->shape, (Shape{16, 16, 3, 384}));
  EXPECT_EQ(table.Find("pos_embedding")->shape, (Shape{1, 196, 384}));
  EXPECT_EQ(table.Find(attention + "query/kernel")->shape, (Shape{384, 6, 64}));
  EXPECT_EQ(table.Find(attention + "query/bias")->shape, (Shape{6, 64}));
  EXPECT_EQ(table.Find(attention + "out/kernel")->shape, (Shape{6, 64, 384}));
  EXPECT_EQ(table.Find("MAPHead_0/probe")->shape, (Shape{1, 1, 384}));
}

// The MAP head's kernels end in query/kernel or Dense_0/kernel: they do not match the pattern
// head/kernel.
TEST(ParamTableTest, OnlyTheClassifierKernelIsInTheHeadDecayGroup) {
  const ParamTable table = Table(Variant("mu/16", 10));
  for (const Parameter& p : table.parameters()) {
    const bool kernel = p.name.size() > 7 && p.name.substr(p.name.size() - 7) == "/kernel";
    const DecayGroup want = p.name == "head/kernel" ? DecayGroup::kHead
                            : kernel                ? DecayGroup::kBody
                                                    : DecayGroup::kNone;
    EXPECT_EQ(p.decay, want) << p.name;
  }
}

TEST(ParamTableTest, KeyBiasesAreFlaggedInTrunkAndHead) {
  const ParamTable table = Table(Variant("mu/16", 10));
  std::vector<std::string> flagged;
  for (const Parameter& p : table.parameters()) {
    if (p.is_key_bias) flagged.push_back(p.name);
  }
  EXPECT_THAT(flagged,
              ElementsAre("Transformer/encoderblock_0/MultiHeadDotProductAttention_0/key/bias",
                          "MAPHead_0/MultiHeadDotProductAttention_0/key/bias"));
}

// ---- places ------------------------------------------------------------------

TEST(ParamTableTest, TensorsAreAlignedInEveryArenaAndDoNotOverlap) {
  const ParamTable table = Table(Variant("Ti/16", 1000));
  int64_t parameter_end = 0, second_end = 0, gradient_begin = table.arena_elements();
  for (const Parameter& p : table.parameters()) {
    for (const TensorView& v :
         {table.ParameterView(p), table.GradientView(p), table.MomentumView(p),
          table.SecondMomentView(p), table.AverageView(p)}) {
      EXPECT_EQ(v.offset % kTensorAlignment, 0) << DebugString(v);
    }
    EXPECT_GE(p.offset_elements, parameter_end);
    EXPECT_GE(p.second_moment_offset, second_end);
    EXPECT_LE(p.gradient_offset + p.elements(), gradient_begin);
    parameter_end = p.offset_elements + p.elements();
    second_end = p.second_moment_offset + p.second_moment_elements;
    gradient_begin = p.gradient_offset;
  }
  EXPECT_EQ(gradient_begin, 0);
  EXPECT_LE(parameter_end, table.arena_elements());
  EXPECT_LE(second_end, table.second_moment_arena_elements());
}

// ---- initial values ----------------------------------------------------------

class InitTest : public testing::Test {
 protected:
  std::vector<float> Values(const std::string& name) {
    const int index = static_cast<int>(table_.Find(name) - table_.parameters().data());
    std::vector<float> values(table_.parameters()[index].elements());
    InitializeParameter(table_, index, 7, absl::MakeSpan(values));
    return values;
  }
  // Mean and root mean square.
  static std::pair<double, double> Moments(const std::vector<float>& values) {
    double sum = 0, squares = 0;
    for (float v : values) sum += v, squares += double{v} * v;
    return {sum / values.size(), std::sqrt(squares / values.size())};
  }
  static double Most(const std::vector<float>& values) {
    double most = 0;
    for (float v : values) most = std::max(most, std::abs(double{v}));
    return most;
  }
  // Five standard errors of the root mean square; for a normal the error is 1 / sqrt(2 n), for the
  // others less.
  static void ExpectStddev(const std::vector<float>& values, double stddev) {
    const auto [mean, rms] = Moments(values);
    EXPECT_NEAR(rms, stddev, 5 * stddev / std::sqrt(2.0 * values.size()));
    EXPECT_NEAR(mean, 0, 5 * stddev / std::sqrt(values.size()));
  }

  ModelConfig model_ = [] {
    ModelConfig m = Variant("Ti/16", 10);
    m.head_bias = -2.5;
    m.representation_size = 64;
    return m;
  }();
  ParamTable table_{model_, OptimizerKind::kAdafactor};
};

TEST_F(InitTest, PatchKernelIsLecunNormalCutAtTwoDeviations) {
  const std::vector<float> values = Values("embedding/kernel");
  const double stddev = 1 / std::sqrt(16 * 16 * 3);
  ExpectStddev(values, stddev);
  const double cut = 2 * stddev / 0.87962566103423978;
  EXPECT_LE(Most(values), cut * (1 + 1e-6));
  EXPECT_GT(Most(values), 0.99 * cut);
}

TEST_F(InitTest, PositionsAreNormalWithOneOverRootWidth) {
  ExpectStddev(Values("pos_embedding"), 1 / std::sqrt(192));
}

TEST_F(InitTest, AttentionKernelsAreXavierUniformOnTheFlattenedShape) {
  const double limit = std::sqrt(6.0 / (2 * 192));
  for (const char* which : {"query", "key", "value", "out"}) {
    const std::vector<float> values = Values(absl::StrCat(
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/", which, "/kernel"));
    ExpectStddev(values, limit / std::sqrt(3));
    EXPECT_LE(Most(values), limit);
    EXPECT_GT(Most(values), 0.99 * limit);
  }
}

TEST_F(InitTest, MlpKernelsAreXavierUniformAndItsBiasesTiny) {
  const double limit = std::sqrt(6.0 / (192 + 768));
  for (const char* layer : {"Dense_0", "Dense_1"}) {
    const std::string at = absl::StrCat("Transformer/encoderblock_3/MlpBlock_0/", layer);
    EXPECT_LE(Most(Values(at + "/kernel")), limit);
    ExpectStddev(Values(at + "/kernel"), limit / std::sqrt(3));
    ExpectStddev(Values(at + "/bias"), 1e-6);
  }
}

// Flax computes fans of the probe's shape (1, 1, width) as 1 and width.
TEST_F(InitTest, ProbeLimitIsRootOfSixOverOnePlusWidth) {
  const double limit = std::sqrt(6.0 / (1 + 192));
  const std::vector<float> probe = Values("MAPHead_0/probe");
  EXPECT_LE(Most(probe), limit);
  EXPECT_GT(Most(probe), 0.9 * limit);
}

TEST_F(InitTest, HeadIsZeroWithTheGivenBiasAndNormsAreOneAndZero) {
  EXPECT_THAT(Values("head/kernel"), testing::Each(0.0f));
  EXPECT_THAT(Values("head/bias"), testing::Each(-2.5f));
  EXPECT_THAT(Values("Transformer/encoder_norm/scale"), testing::Each(1.0f));
  EXPECT_THAT(Values("Transformer/encoder_norm/bias"), testing::Each(0.0f));
  ExpectStddev(Values("pre_logits/kernel"), 1 / std::sqrt(192));
}

TEST_F(InitTest, TheWholeArenaHoldsEachTensorAndZeroGaps) {
  std::vector<float> arena(table_.arena_elements(), 9.0f);
  ASSERT_THAT(InitializeParameters(table_, 7, absl::MakeSpan(arena)), IsOk());
  const Parameter* probe = table_.Find("MAPHead_0/probe");
  const std::vector<float> values = Values("MAPHead_0/probe");
  EXPECT_TRUE(std::equal(values.begin(), values.end(), arena.begin() + probe->offset_elements));
  const Parameter* bias = table_.Find("head/bias");  // 10 values, 22 of gap behind them
  EXPECT_EQ(arena[bias->offset_elements + 9], -2.5f);
  EXPECT_EQ(arena[bias->offset_elements + 10], 0.0f);
  arena.pop_back();
  EXPECT_THAT(InitializeParameters(table_, 7, absl::MakeSpan(arena)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(InitTest, SeedsAndTensorsGiveDifferentValues) {
  std::vector<float> one(192 * 192), other(192 * 192);
  const std::string at = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/";
  const int query = static_cast<int>(table_.Find(at + "query/kernel") - table_.parameters().data());
  InitializeParameter(table_, query, 1, absl::MakeSpan(one));
  InitializeParameter(table_, query, 2, absl::MakeSpan(other));
  EXPECT_NE(one, other);
  EXPECT_NE(Values(at + "query/kernel"), Values(at + "key/kernel"));
}

}  // namespace
}  // namespace vitscale
