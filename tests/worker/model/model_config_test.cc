#include "worker/model/model_config.h"

#include "tests/status_matchers.h"

namespace vitscale {
namespace {

using ::testing::HasSubstr;

TEST(VariantTest, EveryListedNameResolvesToAValidModel) {
  for (const std::string& name : VariantNames()) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const ModelShape shape, VariantByName(name));
    ModelConfig model;
    model.classes = 1000;
    model.SetShape(shape);
    EXPECT_THAT(ValidateModel(model), IsOk()) << name;
  }
}

TEST(VariantTest, LowerAndUpperCaseAreDifferentModels) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ModelShape small, VariantByName("s/16"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ModelShape large, VariantByName("S/16"));
  EXPECT_EQ(small.width, 256);
  EXPECT_EQ(large.width, 384);
}

TEST(VariantTest, HeadDimsAreThoseOfThePaper) {
  const struct {
    const char* name;
    int head_dim;
  } cases[] = {{"s/16", 32},      {"Ti/16", 64}, {"g/14", 88},  {"G/14", 104},
               {"So400m/14", 72}, {"H/14", 80},  {"e/14", 112}, {"g-opt/16", 96}};
  for (const auto& c : cases) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const ModelShape shape, VariantByName(c.name));
    EXPECT_EQ(shape.width / shape.heads, c.head_dim) << c.name;
  }
}

TEST(VariantTest, UnknownNamesAreNotFoundWithASuggestion) {
  EXPECT_THAT(VariantByName("T/16"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("\"T/16\"")));
  EXPECT_THAT(VariantByName("So40m/14"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("did you mean \"So400m/14\"")));
  for (const char* bad : {"", "S", "S/", "S/0", "S/257", "S/16/2", "S/x"}) {
    EXPECT_THAT(VariantByName(bad), StatusIs(absl::StatusCode::kNotFound)) << bad;
  }
}

TEST(ModelConfigTest, ThePatchGridLeavesARemainderOut) {
  ModelConfig model;
  model.image_size = 384;
  model.patch = 14;
  EXPECT_EQ(model.patches(), 27 * 27);
  model.pool = PoolKind::kCls;
  EXPECT_EQ(model.tokens(), 27 * 27 + 1);
}

TEST(ModelConfigTest, EveryFieldOutOfRangeIsNamed) {
  ModelConfig good;
  good.classes = 10;
  good.SetShape({16, 64, 2, 2, 128});
  ASSERT_THAT(ValidateModel(good), IsOk());
  const auto expect = [&](void (*spoil)(ModelConfig&), const char* field) {
    ModelConfig bad = good;
    spoil(bad);
    EXPECT_THAT(ValidateModel(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)));
  };
  expect([](ModelConfig& m) { m.patch = 0; }, "model.patch is 0");
  expect([](ModelConfig& m) { m.width = -64; }, "model.width is -64");
  expect([](ModelConfig& m) { m.depth = 0; }, "model.depth");
  expect([](ModelConfig& m) { m.heads = 0; }, "model.heads");
  expect([](ModelConfig& m) { m.heads = 3; }, "with 3 heads");
  expect([](ModelConfig& m) { m.heads = 16; }, "multiple of 8");
  expect([](ModelConfig& m) { m.mlp_width = 0; }, "model.mlp_width");
  expect([](ModelConfig& m) { m.classes = 0; }, "model.classes");
  expect([](ModelConfig& m) { m.image_size = 15; }, "model.image_size is 15, want 16");
  expect([](ModelConfig& m) { m.channels = 0; }, "model.channels");
  expect([](ModelConfig& m) { m.representation_size = -1; }, "model.representation_size");
  expect([](ModelConfig& m) { m.head_bias = std::nan(""); }, "model.head_bias");
}

}  // namespace
}  // namespace vitscale
