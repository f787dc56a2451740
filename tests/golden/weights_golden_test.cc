// Files that big_vision, timm and transformers wrote, imported, and what the engine computes from
// them against what these computed. Values: weights_golden.py, weights_torch.py.

#include <algorithm>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/golden/golden.h"
#include "tests/worker/model/replica.h"
#include "worker/weights/import_weights.h"
#include "worker/weights/resample.h"

namespace vitscale::golden {
namespace {

// f32 against f64: 4 times what the library's own f32 is off by, since the order of sums differs.
constexpr double kFloor = 2e-7;

ErrorTable& Errors() {
  static auto* table = new ErrorTable;
  return *table;
}
class PrintErrors : public testing::Environment {
  void TearDown() override { delete &Errors(); }
};
const auto* const kPrintErrors = testing::AddGlobalTestEnvironment(new PrintErrors);

ImportedWeights Import(const std::string& file, ImportOptions options = {}) {
  if (absl::EndsWith(file, ".safetensors")) options.hints.heads = 2;
  if (absl::StrContains(file, "sincos")) options.hints.image_size = 12;
  auto imported =
      ImportWeights(PosixFileSystem(), GoldenPath(absl::StrCat("weights/", file)), options);
  EXPECT_THAT(imported, IsOk());
  return *std::move(imported);
}

// Logits of the evaluation program, for all images in one batch.
std::vector<float> LogitsOf(const Weights& weights, const GoldenFile& golden) {
  PlanRequest request;
  request.model = weights.model;
  request.batch_micro = golden.ShapeOf("images")[0];
  request.source_height = request.source_width = weights.model.image_size;
  Replica replica(request);
  for (const Parameter& p : replica.plan.layout.table.parameters()) {
    const auto from = weights.Of(*weights.table.Find(p.name));
    std::copy(from.begin(), from.end(), replica.ParameterOf(p).begin());
  }
  replica.PrepareWeights();
  TestBatch batch;
  for (const int64_t pixel : golden.Integers("images")) {
    batch.images.push_back(static_cast<uint8_t>(pixel));
  }
  batch.labels.resize(request.batch_micro);
  batch.augment.resize(3 * request.batch_micro);
  replica.Eval(batch);
  return replica.Logits();
}

void ExpectLogits(const Weights& weights, const std::string& golden, const std::string& key,
                  const std::string& what) {
  const GoldenFile images("weights_golden"), truth(golden);
  const std::vector<double> wanted = truth.Values(absl::StrCat("logits_f64/", key));
  const double own = RelativeL2(truth.Floats(absl::StrCat("logits_f32/", key)), wanted);
  Errors().Expect(what, RelativeL2(LogitsOf(weights, images), wanted), std::max(kFloor, 4 * own),
                  "", key);
}

void ExpectSame(const Weights& a, const Weights& b, float tolerance, const std::string& where) {
  ASSERT_EQ(a.parameters.size(), b.parameters.size()) << where;
  for (size_t i = 0; i < a.parameters.size(); ++i) {
    ASSERT_NEAR(a.parameters[i], b.parameters[i], tolerance) << where;
  }
}

TEST(WeightsGoldenTest, BigVisionFilesGiveTheLogitsOfFlax) {
  for (const char* name : {"map", "cls", "gap_sincos"}) {
    const ImportedWeights in = Import(absl::StrCat("bv_", name, ".npz"));
    EXPECT_THAT(in.ignored, testing::IsEmpty());
    ExpectLogits(in.weights, "weights_golden", name, "logits, big_vision npz");
  }
}

TEST(WeightsGoldenTest, EverySpellingOfAModelIsTheSameModel) {
  const Weights plain = Import("bv_map.npz").weights;
  for (const char* spelling : {"params", "opt_target", "two_towers", "scan", "old"}) {
    ExpectSame(Import(absl::StrCat("bv_map_", spelling, ".npz")).weights, plain, 0, spelling);
  }
}

TEST(WeightsGoldenTest, TensorsOfOtherPartsAreListed) {
  EXPECT_THAT(Import("bv_map_two_towers.npz").ignored,
              testing::UnorderedElementsAre("params/txt/Embed_0/embedding", "params/t"));
  EXPECT_THAT(Import("bv_map_params.npz").ignored,
              testing::UnorderedElementsAre("opt/mu/embedding/bias", "chrono/accum_train_time"));
}

TEST(WeightsGoldenTest, Bfloat16AsVoidIsWidened) {
  ExpectLogits(Import("bv_map_bf16.npz").weights, "weights_golden", "map_bf16",
               "logits, bfloat16 npz");
}

// The class token's own position is added to it; one rounding of numbers up to 2.
TEST(WeightsGoldenTest, AClassTokenWithAPositionOfItsOwn) {
  const ImportedWeights in = Import("bv_cls_old.npz");
  ExpectSame(in.weights, Import("bv_cls.npz").weights, 0x1p-23f, "cls");
  ExpectLogits(in.weights, "weights_golden", "cls", "logits, big_vision npz");
}

TEST(WeightsGoldenTest, TimmFilesGiveTheLogitsOfTimm) {
  for (const char* name : {"timm_map", "timm_cls", "timm_gap"}) {
    ExpectLogits(Import(absl::StrCat(name, ".safetensors")).weights, "weights_torch", name,
                 "logits, timm");
  }
}

// The head is the unit matrix, so that the logits are the features.
TEST(WeightsGoldenTest, TheVisionTowerOfSiglipGivesTheFeaturesOfTransformers) {
  ImportOptions options;
  options.without_head = true;
  options.hints.classes = 16;
  ImportedWeights in = Import("hf_pair.safetensors", options);
  EXPECT_THAT(in.ignored, testing::AllOf(testing::Contains("logit_scale"),
                                         testing::Contains(testing::StartsWith("text_model."))));
  const absl::Span<float> head = in.weights.Of(*in.weights.table.Find("head/kernel"));
  for (int i = 0; i < 16; ++i) head[17 * i] = 1;
  ExpectLogits(in.weights, "weights_torch", "hf_pair", "features, HF SigLIP");
}

TEST(WeightsGoldenTest, PositionsAreResampledToTheBitsOfScipy) {
  const GoldenFile golden("weights_golden");
  int pairs = 0;
  for (const std::string& name : golden.Names()) {
    const std::vector<std::string> parts = absl::StrSplit(name, '/');
    if (parts[0] != "resample" || parts[2] != "from") continue;
    const std::vector<std::string> sides = absl::StrSplit(parts[1], '_');
    const std::vector<float> from = golden.Floats(name);
    const std::vector<float> to = golden.Floats(absl::StrCat("resample/", parts[1], "/to"));
    const std::vector<float> ours =
        ResamplePositions(from, std::stoi(sides[0]), std::stoi(sides[1]), 3);
    ASSERT_EQ(ours.size(), to.size());
    double worst = 0;
    for (size_t i = 0; i < to.size(); ++i) {
      worst = std::max(worst, static_cast<double>(UlpDistance(ours[i], to[i])));
    }
    Errors().Expect("positions, scipy zoom", worst, 0, "ulp", parts[1]);
    ++pairs;
  }
  EXPECT_EQ(pairs, 10);
}

// scipy has zeros in the last row and column here: its coordinate is a rounding error too large.
TEST(WeightsGoldenTest, TheLastRowStaysTheLastRow) {
  const std::vector<float> ours = ResamplePositions(std::vector<float>(16 * 16, 1.0f), 16, 30, 1);
  EXPECT_THAT(ours, testing::Each(1.0f));
}

}  // namespace
}  // namespace vitscale::golden
