// What goes out comes back the same, bit for bit.

#include <algorithm>

#include "gmock/gmock.h"
#include "tests/status_matchers.h"
#include "tests/worker/weights/weights_test_util.h"
#include "worker/model/vit.h"
#include "worker/weights/weights_checkpoint.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class RoundTripTest : public testing::Test {
 protected:
  // Out to `format` and in again.
  absl::StatusOr<ImportedWeights> ThereAndBack(const Weights& weights, const std::string& format,
                                               ImportOptions options = {},
                                               bool without_head = false) {
    const std::string path = files_.Path(format);
    ExportOptions out;
    out.without_head = without_head;
    out.overwrite = true;
    const absl::Status written =
        ExportWeights(PosixFileSystem(), path, weights, *SpellingByName(format).value(), out);
    if (!written.ok()) return written;
    options.hints.heads = weights.model.heads;
    return ImportWeights(PosixFileSystem(), path, options);
  }
  WeightsTest files_;
};

TEST_F(RoundTripTest, EveryPoolComesBackBitForBit) {
  for (const PoolKind pool : {PoolKind::kMap, PoolKind::kGap, PoolKind::kCls}) {
    const Weights weights = TestWeights(TestModel(pool));
    for (const char* format : {"npz", "timm"}) {
      VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights back, ThereAndBack(weights, format));
      EXPECT_EQ(back.weights.model.pool, pool);
      EXPECT_EQ(back.weights.model.heads, 2);
      EXPECT_TRUE(SameBits(back.weights.parameters, weights.parameters)) << format;
      EXPECT_THAT(back.ignored, testing::IsEmpty());
    }
  }
}

TEST_F(RoundTripTest, SiglipComesBackWithoutItsHead) {
  Weights weights = TestWeights(TestModel());
  ImportOptions options;
  options.without_head = true;
  options.hints.classes = 5;
  options.hints.head_bias = -6.5;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights back,
                                ThereAndBack(weights, "hf", options, /*without_head=*/true));
  for (float& v : weights.Of(*weights.table.Find("head/kernel"))) v = 0;
  for (float& v : weights.Of(*weights.table.Find("head/bias"))) v = -6.5;
  EXPECT_TRUE(SameBits(back.weights.parameters, weights.parameters));
}

TEST_F(RoundTripTest, BigVisionKeepsSincosAndRepresentation) {
  ModelConfig model = TestModel(PoolKind::kGap);
  model.position = PositionKind::kSincos2d;
  model.representation_size = 8;
  const Weights weights = TestWeights(model);
  ImportOptions options;
  options.hints.image_size = 12;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights back, ThereAndBack(weights, "npz", options));
  EXPECT_EQ(back.weights.model.position, PositionKind::kSincos2d);
  EXPECT_EQ(back.weights.model.representation_size, 8);
  EXPECT_TRUE(SameBits(back.weights.parameters, weights.parameters));
}

TEST_F(RoundTripTest, SincosPositionsBecomeLearnedOnesOfTheSameValueElsewhere) {
  ModelConfig model = TestModel(PoolKind::kGap);
  model.position = PositionKind::kSincos2d;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights back,
                                ThereAndBack(TestWeights(model), "timm"));
  EXPECT_EQ(back.weights.model.position, PositionKind::kLearned);
  const auto positions = back.weights.Of(*back.weights.table.Find("pos_embedding"));
  EXPECT_TRUE(SameBits({positions.begin(), positions.end()}, Sincos2dPositions(model)));
}

TEST_F(RoundTripTest, ExportNamesEveryParameterThatHasNoPlace) {
  ModelConfig model = TestModel(PoolKind::kCls);
  model.representation_size = 8;
  EXPECT_THAT(ThereAndBack(TestWeights(model), "hf"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("cls, "), HasSubstr("pre_logits/kernel"),
                             HasSubstr("head/bias"), HasSubstr("--without-head"))));
  EXPECT_THAT(PosixFileSystem().Exists(files_.Path("hf")), IsOkAndHolds(false));
}

TEST_F(RoundTripTest, ExportReplacesAFileOnlyWhenItIsTold) {
  const Weights weights = TestWeights(TestModel());
  const Spelling& npz = *SpellingByName("npz").value();
  const std::string path = files_.Write("out.npz", "precious");
  const std::string other = files_.Write("out.npz.tmp", "another's");
  EXPECT_THAT(ExportWeights(PosixFileSystem(), path, weights, npz, {}),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("--force")));
  EXPECT_EQ(files_.Read(path), "precious");
  ExportOptions force;
  force.overwrite = true;
  EXPECT_THAT(ExportWeights(PosixFileSystem(), path, weights, npz, force), IsOk());
  EXPECT_THAT(ImportWeights(PosixFileSystem(), path, {}), IsOk());
  EXPECT_EQ(files_.Read(other), "another's");
}

TEST_F(RoundTripTest, ACheckpointGivesBackTheSameWeightsAndSaysWhatItIs) {
  const Weights weights = TestWeights(TestModel());
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const std::string path,
      WriteWeightsCheckpoint(PosixFileSystem(), files_.Path("runs"), "abc", weights, "name: x\n",
                             absl::FromUnixSeconds(1)));
  EXPECT_EQ(path, files_.Path("runs/abc/a0000.g0000.step_000000000"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const CheckpointStore store,
      CheckpointStore::Open(PosixFileSystem(), files_.Path("runs"), "abc"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointManifest manifest, store.ReadManifest({}));
  EXPECT_TRUE(manifest.weights_only);
  EXPECT_EQ(manifest.digest, 0u);
  EXPECT_EQ(manifest.spec, "name: x\n");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const Weights back,
                                ReadWeightsCheckpoint(store, {}, weights.model));
  EXPECT_TRUE(SameBits(back.parameters, weights.parameters));
  EXPECT_THAT(WriteWeightsCheckpoint(PosixFileSystem(), files_.Path("runs"), "abc", weights, "",
                                     absl::FromUnixSeconds(2)),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

// timm computes int(width * mlp_ratio); g/14 is 1408 wide with 6144, which no short ratio gives.
TEST(ModelExpressionTest, TheMlpRatioGivesTheWidthBack) {
  ModelConfig model = TestModel();
  for (const std::string& name : VariantNames()) {
    model.SetShape(VariantByName(name).value());
    const std::string text = ModelExpression(*SpellingByName("timm").value(), model, false);
    const double ratio = std::stod(text.substr(text.find("mlp_ratio=") + 10));
    EXPECT_EQ(static_cast<int>(model.width * ratio), model.mlp_width) << name;
  }
}

}  // namespace
}  // namespace vitscale
