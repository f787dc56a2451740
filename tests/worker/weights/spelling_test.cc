#include "worker/weights/spelling.h"

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/status_matchers.h"
#include "tests/worker/weights/weights_test_util.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Of all that the param table can hold; what is missing is what ExportWeights refuses by name.
std::set<std::string> Unplaced(const Spelling& spelling) {
  std::set<std::string> unplaced;
  for (const PoolKind pool : {PoolKind::kMap, PoolKind::kGap, PoolKind::kCls}) {
    ModelConfig model = TestModel(pool);
    model.representation_size = 8;
    const ParamTable table(model, OptimizerKind::kAdafactor);
    for (const Parameter& p : table.parameters()) {
      if (PlacesOf(spelling, p.name, model.depth).empty()) unplaced.insert(p.name);
    }
  }
  return unplaced;
}

TEST(SpellingTest, EveryParameterHasAPlaceButTheKnownExceptions) {
  EXPECT_THAT(Unplaced(*SpellingByName("npz").value()), IsEmpty());
  EXPECT_THAT(Unplaced(*SpellingByName("timm").value()),
              ElementsAre("pre_logits/bias", "pre_logits/kernel"));
  EXPECT_THAT(
      Unplaced(*SpellingByName("hf").value()),
      ElementsAre("cls", "head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel"));
}

TEST(SpellingTest, PartsOfATensorAreCompleteAndNoTensorIsWrittenTwice) {
  for (const Spelling& spelling : Spellings()) {
    std::map<std::string, std::set<int64_t>> parts;
    std::map<std::string, int64_t> wanted;
    const ModelConfig model = TestModel();
    const ParamTable table(model, OptimizerKind::kAdafactor);
    for (const Parameter& p : table.parameters()) {
      const auto places = PlacesOf(spelling, p.name, model.depth);
      if (places.empty()) continue;
      EXPECT_TRUE(parts[places[0].name].insert(places[0].part).second) << places[0].name;
      wanted[places[0].name] = places[0].parts;
    }
    for (const auto& [name, seen] : parts) {
      EXPECT_EQ(static_cast<int64_t>(seen.size()), wanted[name]) << name;
    }
  }
}

TEST(SpellingTest, NamesMeanWhatWasPlacedThere) {
  for (const Spelling& spelling : Spellings()) {
    const ParamTable table(TestModel(), OptimizerKind::kAdafactor);
    for (const Parameter& p : table.parameters()) {
      for (const Place& place : PlacesOf(spelling, p.name, 2)) {
        bool found = false;
        for (const Meaning& meaning : MeaningsOf(spelling, place.name)) {
          found |= meaning.ours == p.name || place.by_block;
        }
        EXPECT_TRUE(found) << place.name << " of " << p.name;
      }
    }
  }
}

TEST(SpellingTest, ANumberIsWrittenWithoutLeadingZero) {
  const Spelling& timm = *SpellingByName("timm").value();
  EXPECT_EQ(MeaningsOf(timm, "blocks.10.norm1.bias").size(), 1u);
  EXPECT_THAT(MeaningsOf(timm, "blocks.01.norm1.bias"), IsEmpty());
  EXPECT_THAT(MeaningsOf(timm, "blocks..norm1.bias"), IsEmpty());
  EXPECT_THAT(MeaningsOf(timm, "blocks.99999999999999999999.norm1.bias"), IsEmpty());
}

// [2, 3] of ours, the second of two parts, lies transposed behind the first.
TEST(SpellingTest, CopiesItsPartTransposedThereAndBack) {
  const Place place{"kv", Form::kLinear, 1, 2};
  const Shape shape = {2, 3};
  EXPECT_EQ(TheirShape(place, shape), (Shape{6, 2}));
  const std::vector<float> ours = {1, 2, 3, 4, 5, 6};
  std::vector<float> theirs(12, 0.0f), back(6);
  CopyToTheirs(place, shape, ours, absl::MakeSpan(theirs));
  EXPECT_THAT(theirs, ElementsAre(0, 0, 0, 0, 0, 0, 1, 4, 2, 5, 3, 6));
  CopyFromTheirs(place, shape, theirs, absl::MakeSpan(back));
  EXPECT_EQ(back, ours);
}

// [height 1, width 2, in 2, out 2] -> [out, in, height, width].
TEST(SpellingTest, PatchKernelsTurnAround) {
  const Place place{"conv", Form::kConv};
  const Shape shape = {1, 2, 2, 2};
  EXPECT_EQ(TheirShape(place, shape), (Shape{2, 2, 1, 2}));
  const std::vector<float> ours = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<float> theirs(8), back(8);
  CopyToTheirs(place, shape, ours, absl::MakeSpan(theirs));
  EXPECT_THAT(theirs, ElementsAre(0, 4, 2, 6, 1, 5, 3, 7));
  CopyFromTheirs(place, shape, theirs, absl::MakeSpan(back));
  EXPECT_EQ(back, ours);
}

TEST(SpellingTest, UnknownFormatsAreRefusedWithTheListOfThem) {
  EXPECT_THAT(SpellingByName("onnx"),
              StatusIs(absl::StatusCode::kNotFound, testing::HasSubstr("npz, timm, hf")));
}

}  // namespace
}  // namespace vitscale
