#include "worker/checkpoint/manifest.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "tests/status_matchers.h"
#include "tests/worker/checkpoint/checkpoint_test_util.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

CheckpointManifest Example() {
  CheckpointManifest manifest =
      TestManifest({3, 7, 1000, false},
                   {{"part-00000-of-00002.safetensors", 100, 0x1234}, {"b", 5, 0xffffffff}});
  manifest.parent = "k3/a0001.g0001.step_000000500";
  manifest.seed = 0xffffffffffffffffull;
  manifest.spec = "name: \"ü\\n\"\n";
  manifest.final = true;
  return manifest;
}

TEST(ManifestTest, SurvivesTheWayThroughJson) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointManifest read,
                                ManifestFromJson(ManifestToJson(Example())));
  EXPECT_EQ(read, Example());
  EXPECT_EQ(read.total_bytes(), 105);
}

// A version that reads format 1 alone says that this one is newer than it is.
TEST(ManifestTest, WeightsOnlyIsFormatTwoAndAWholeStateStaysFormatOne) {
  CheckpointManifest manifest = Example();
  EXPECT_THAT(ManifestToJson(manifest),
              testing::AllOf(HasSubstr("\"format\": 1,"), testing::Not(HasSubstr("weights_only"))));
  manifest.weights_only = true;
  EXPECT_THAT(ManifestToJson(manifest), HasSubstr("\"format\": 2,"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointManifest read,
                                ManifestFromJson(ManifestToJson(manifest)));
  EXPECT_EQ(read, manifest);
}

TEST(ManifestTest, TheNumberOfTrainingImagesIsToldWhereItIsKnown) {
  CheckpointManifest manifest = Example();
  manifest.train_images = 60000;
  EXPECT_THAT(ManifestToJson(manifest),
              testing::AllOf(HasSubstr("\"format\": 2,"), HasSubstr("\"train_images\": 60000")));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointManifest read,
                                ManifestFromJson(ManifestToJson(manifest)));
  EXPECT_EQ(read, manifest);
}

TEST(ManifestTest, TheClassFoldersOfTheHeadAreToldWhereThereAreAny) {
  CheckpointManifest manifest = Example();
  manifest.class_names = 0xfeed;
  EXPECT_THAT(ManifestToJson(manifest),
              testing::AllOf(HasSubstr("\"format\": 2,"),
                             HasSubstr("\"class_names\": \"000000000000feed\"")));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointManifest read,
                                ManifestFromJson(ManifestToJson(manifest)));
  EXPECT_EQ(read, manifest);
}

TEST(ManifestTest, EveryChangedCharacterIsAnErrorOrMeansTheSame) {
  const std::string text = ManifestToJson(Example());
  for (size_t at = 0; at < text.size(); ++at) {
    std::string damaged = text;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    const auto read = ManifestFromJson(damaged);
    if (read.ok()) {
      EXPECT_EQ(*read, Example()) << at;
    }
  }
}

TEST(ManifestTest, EveryTruncationIsAnError) {
  const std::string text = ManifestToJson(Example());
  for (size_t length = 0; length + 2 < text.size(); ++length) {
    EXPECT_THAT(ManifestFromJson(text.substr(0, length)), StatusIs(absl::StatusCode::kDataLoss));
  }
  EXPECT_THAT(ManifestFromJson(std::string(text.size(), '\0')),
              StatusIs(absl::StatusCode::kDataLoss));
}

TEST(ManifestTest, FaultsNameTheField) {
  CheckpointManifest manifest = Example();
  manifest.files[1].name = manifest.files[0].name;
  EXPECT_THAT(ManifestFromJson(ManifestToJson(manifest)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("files[1].name: stands twice")));
  manifest.files[1].name = "../x";
  EXPECT_THAT(ManifestFromJson(ManifestToJson(manifest)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("files[1].name")));
  manifest = Example();
  manifest.images = -1;
  EXPECT_THAT(ManifestFromJson(ManifestToJson(manifest)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("images")));
  manifest = Example();
  manifest.numerics.world_size = -1;
  EXPECT_THAT(ManifestFromJson(ManifestToJson(manifest)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("numerics.world_size")));
}

TEST(ManifestTest, DeepNestingIsDamageAndNoStackOverflow) {
  for (const int depth : {5, 100 * 1000, 4 * 1000 * 1000}) {
    const std::string text =
        absl::StrCat("{\"format\":1,\"x\":", std::string(depth, '['), std::string(depth, ']'), "}");
    EXPECT_THAT(ManifestFromJson(text),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("nested too deeply")));
  }
}

TEST(ManifestTest, ANewerFormatIsToldApartFromDamage) {
  const std::string text =
      absl::StrReplaceAll(ManifestToJson(Example()), {{"\"format\": 1", "\"format\": 3"}});
  EXPECT_THAT(ManifestFromJson(text),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("reads up to 2")));
}

TEST(InfoOfTest, CarriesWhatTheCoordinatorShows) {
  const link::CheckpointInfo info = InfoOf(Example(), "/runs/k3/x");
  EXPECT_EQ(info.id, CheckpointId(kTestJob, Example().name));
  EXPECT_EQ(info.bytes, 105);
  EXPECT_EQ(info.digest, "0123456789abcdef");
  EXPECT_TRUE(info.final);
}

TEST(NumericsDifferencesTest, SaysWhatWasAndWhatIs) {
  const link::NumericsRecord before = Example().numerics;
  link::NumericsRecord now = before;
  EXPECT_THAT(NumericsDifferences(before, now), IsEmpty());
  now.recompute = "block";  // decides no bit
  EXPECT_THAT(NumericsDifferences(before, now), IsEmpty());
  now.world_size = 1;
  now.instruction_set = "avx2";
  EXPECT_THAT(NumericsDifferences(before, now),
              ElementsAre("instruction_set \"avx512_bf16\", now \"avx2\"", "world_size 2, now 1"));
}

TEST(NumericsDifferencesTest, AManifestWithoutAResidualIsOfAnF32One) {
  CheckpointManifest manifest = Example();
  EXPECT_THAT(ManifestToJson(manifest), Not(HasSubstr("residual")));
  link::NumericsRecord now = manifest.numerics;
  now.residual = "bf16";
  EXPECT_THAT(NumericsDifferences(manifest.numerics, now),
              ElementsAre("residual \"f32\", now \"bf16\""));
  manifest.numerics = now;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointManifest read,
                                ManifestFromJson(ManifestToJson(manifest)));
  EXPECT_EQ(read.numerics.residual, "bf16");
}

TEST(NumericsDifferencesTest, OtherChoicesAreOtherBitsUnlessOneSideKnowsNone) {
  CheckpointManifest manifest = Example();
  EXPECT_THAT(ManifestToJson(manifest), Not(HasSubstr("choices")));
  link::NumericsRecord now = manifest.numerics;
  now.choices = "0123456789abcdef";
  EXPECT_THAT(NumericsDifferences(manifest.numerics, now), IsEmpty());
  EXPECT_THAT(NumericsDifferences(now, manifest.numerics), IsEmpty());
  manifest.numerics = now;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const CheckpointManifest read,
                                ManifestFromJson(ManifestToJson(manifest)));
  EXPECT_EQ(read.numerics.choices, "0123456789abcdef");
  now.choices = "fedcba9876543210";
  EXPECT_THAT(NumericsDifferences(read.numerics, now),
              ElementsAre("choices \"0123456789abcdef\", now \"fedcba9876543210\""));
}

}  // namespace
}  // namespace vitscale
