// Files that do not fit, and the choices at import.

#include "worker/weights/import_weights.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "kernels/base/philox.h"
#include "tests/status_matchers.h"
#include "tests/worker/weights/weights_test_util.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class ImportWeightsTest : public testing::Test {
 protected:
  absl::StatusOr<ImportedWeights> Import(const std::vector<FileTensor>& tensors, bool npz,
                                         ImportOptions options = {}) {
    const std::string path = files_.Path(absl::StrCat("file", count_++));
    WriteFile(path, tensors, npz);
    return ImportWeights(PosixFileSystem(), path, options);
  }
  static FileTensor& Named(std::vector<FileTensor>& tensors, const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(),
                         [&](const FileTensor& t) { return t.name == name; });
  }
  static ImportOptions Heads(int heads) {
    ImportOptions options;
    options.hints.heads = heads;
    return options;
  }

  const Weights weights_ = TestWeights(TestModel());
  WeightsTest files_;
  int count_ = 0;
};

TEST_F(ImportWeightsTest, ListsAllThatDoesNotFitAtOnce) {
  std::vector<FileTensor> tensors = TensorsOf(weights_, "timm");
  Named(tensors, "norm.bias").name = "fc_norm.bias";
  Named(tensors, "blocks.1.mlp.fc2.weight").shape = {24, 16};
  Named(tensors, "blocks.0.attn.qkv.bias") = {"blocks.0.attn.qkv.bias", {3}, {1, 2, 3}};
  EXPECT_THAT(
      Import(tensors, false, Heads(2)),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("nothing is loaded: 1 missing, 2 misshapen, 1 unknown:\n"),
                     HasSubstr("missing: 'norm.bias' [16]"), HasSubstr("unknown: 'fc_norm.bias'"),
                     HasSubstr("misshapen: 'blocks.1.mlp.fc2.weight' is [24, 16], want [16, 24]"),
                     HasSubstr("misshapen: 'blocks.0.attn.qkv.bias' is [3], want [48]"))));
}

TEST_F(ImportWeightsTest, ATensorThatIsNeededMustBeReadable) {
  std::vector<std::pair<std::string, std::string>> entries;
  for (const FileTensor& t : TensorsOf(weights_, "npz")) {
    const std::string data(reinterpret_cast<const char*>(t.values.data()), t.values.size() * 4);
    const char* descr = t.name == "head/bias" ? ">f4" : "<f4";
    entries.push_back(
        {t.name + ".npy", MakeNpy(absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, ",
                                               "'shape': (", absl::StrJoin(t.shape, ", "), ",), }"),
                                  data)});
  }
  const std::string path = files_.Write("big_endian.npz", MakeZip(entries));
  EXPECT_THAT(ImportWeights(PosixFileSystem(), path, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("unreadable: 'head/bias' has dtype '>f4' (big-endian)")));
}

TEST_F(ImportWeightsTest, AForeignFileIsRefusedWithTheNamesThatWereLookedFor) {
  EXPECT_THAT(
      Import({{"conv1.weight", {1}, {1}}}, false),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("'patch_embed.proj.weight' (timm)"),
                     HasSubstr("'embedding/kernel' (big_vision)"), HasSubstr("'conv1.weight'"))));
  ImportOptions hf;
  hf.format = "hf";
  EXPECT_THAT(Import(TensorsOf(weights_, "timm"), false, hf),
              StatusIs(absl::StatusCode::kInvalidArgument, Not(HasSubstr("timm"))));
}

TEST_F(ImportWeightsTest, TheHeadsOfANamedVariantAreTakenAndSaid) {
  ModelConfig mu = TestModel();
  mu.SetShape(VariantByName("mu/4").value());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights in,
                                Import(TensorsOf(TestWeights(mu), "timm"), false));
  EXPECT_EQ(in.weights.model.heads, 2);
  EXPECT_THAT(in.notes, Contains(HasSubstr("as in mu")));
  EXPECT_THAT(Import(TensorsOf(weights_, "timm"), false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("give --heads")));
}

TEST_F(ImportWeightsTest, AVariantIsLaw) {
  ImportOptions options;
  options.hints.shape = VariantByName("mu/4").value();
  EXPECT_THAT(Import(TensorsOf(weights_, "npz"), true, options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("'embedding/kernel' is [4, 4, 3, 16], want [4, 4, 3, 32]"),
                             HasSubstr(" misshapen, 16 unknown:\n"), HasSubstr(" more"))));
}

TEST_F(ImportWeightsTest, AHeadOfOtherClassesIsAnErrorUnlessItIsLeftOut) {
  ImportOptions options;
  options.hints.classes = 7;
  EXPECT_THAT(Import(TensorsOf(weights_, "npz"), true, options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("'head/kernel' is [16, 5], want [16, 7]"),
                             HasSubstr("--without-head"))));
  options.without_head = true;
  options.hints.head_bias = -10;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights in,
                                Import(TensorsOf(weights_, "npz"), true, options));
  EXPECT_EQ(in.weights.model.classes, 7);
  EXPECT_THAT(in.weights.Of(*in.weights.table.Find("head/kernel")), Each(0.0f));
  EXPECT_THAT(in.weights.Of(*in.weights.table.Find("head/bias")), Each(-10.0f));
  EXPECT_THAT(in.ignored, testing::UnorderedElementsAre("head/kernel", "head/bias"));
}

TEST_F(ImportWeightsTest, AFileWithoutHeadIsAnErrorUnlessThatIsWanted) {
  const auto headless = TensorsOf(weights_, "npz", /*without_head=*/true);
  EXPECT_THAT(Import(headless, true),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("missing: 'head/kernel'"), HasSubstr("--without-head"))));
  ImportOptions options;
  options.without_head = true;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights in, Import(headless, true, options));
  EXPECT_EQ(in.weights.model.classes, 1);
}

TEST_F(ImportWeightsTest, TensorsOutsideOfThePrefixAreListedNotRefused) {
  std::vector<FileTensor> tensors = TensorsOf(weights_, "npz");
  for (FileTensor& t : tensors) t.name = "params/img/" + t.name;
  tensors.push_back({"params/txt/head/bias", {1}, {0}});
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights in, Import(tensors, true));
  EXPECT_EQ(in.prefix, "params/img/");
  EXPECT_THAT(in.ignored, ElementsAre("params/txt/head/bias"));
  EXPECT_TRUE(SameBits(in.weights.parameters, weights_.parameters));
  tensors.push_back({"params/img/extra", {1}, {0}});
  EXPECT_THAT(Import(tensors, true), StatusIs(absl::StatusCode::kInvalidArgument,
                                              HasSubstr("unknown: 'params/img/extra'")));
}

TEST_F(ImportWeightsTest, AnotherResolutionResamplesPositionsAndNothingElse) {
  ImportOptions options;
  options.hints.image_size = 20;  // 3 x 3 -> 5 x 5
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights in,
                                Import(TensorsOf(weights_, "npz"), true, options));
  EXPECT_THAT(in.notes, Contains(HasSubstr("resampled from 3x3 to 5x5")));
  const auto old = weights_.Of(*weights_.table.Find("pos_embedding"));
  const auto now = in.weights.Of(*in.weights.table.Find("pos_embedding"));
  ASSERT_EQ(now.size(), 25u * 16);
  for (int i = 0; i < 16; ++i) {  // corners stay, the middle between two is their mean
    EXPECT_EQ(now[i], old[i]);
    EXPECT_EQ(now[24 * 16 + i], old[8 * 16 + i]);
    EXPECT_FLOAT_EQ(now[16 + i], (old[i] + old[16 + i]) / 2);
  }
  for (const Parameter& p : weights_.table.parameters()) {
    if (p.name == "pos_embedding") continue;
    const auto a = weights_.Of(p), b = in.weights.Of(*in.weights.table.Find(p.name));
    EXPECT_TRUE(SameBits({a.begin(), a.end()}, {b.begin(), b.end()})) << p.name;
  }
}

// 14 pixels give the same 3 x 3 patches as 12.
TEST_F(ImportWeightsTest, TheSameGridIsNotResampled) {
  ImportOptions options;
  options.hints.image_size = 14;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const ImportedWeights in,
                                Import(TensorsOf(weights_, "npz"), true, options));
  EXPECT_EQ(in.weights.model.image_size, 14);
  EXPECT_TRUE(SameBits(in.weights.parameters, weights_.parameters));
}

TEST_F(ImportWeightsTest, PositionsOnNoSquareAreRefused) {
  std::vector<FileTensor> tensors = TensorsOf(weights_, "npz");
  Named(tensors, "pos_embedding") = {"pos_embedding", {1, 10, 16}, std::vector<float>(160)};
  EXPECT_THAT(Import(tensors, true), StatusIs(absl::StatusCode::kInvalidArgument,
                                              HasSubstr("10 positions, want a square grid")));
}

TEST_F(ImportWeightsTest, AbsurdShapesAreOutOfRangeNotOutOfMemory) {
  std::vector<FileTensor> tensors = TensorsOf(weights_, "npz");
  Named(tensors, "embedding/kernel") = {"embedding/kernel", {0, 0, 3, 1 << 20}, {}};
  EXPECT_THAT(Import(tensors, true), StatusIs(absl::StatusCode::kInvalidArgument));
  tensors = TensorsOf(weights_, "npz");
  Named(tensors, "Transformer/encoderblock_1/LayerNorm_0/bias").name =
      "Transformer/encoderblock_4000000000/LayerNorm_0/bias";
  EXPECT_THAT(Import(tensors, true),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("depth")));
}

// Any file gives an answer; where it is OK, what was not damaged is intact.
TEST_F(ImportWeightsTest, SurvivesRandomDamageToSafetensors) {
  const std::string path = files_.Path("good.safetensors");
  WriteFile(path, TensorsOf(weights_, "timm"), false);
  const std::string good = files_.Read(path);
  Draws draws(11, DrawPurpose::kTest, 0, 0);
  for (int round = 0; round < 500; ++round) {
    std::string bytes = good;
    for (int n = static_cast<int>(draws.Below(3)); n >= 0; --n) {
      bytes[draws.Below(4096)] = static_cast<char>(draws.Below(256));
    }
    (void)ImportWeights(PosixFileSystem(), files_.Write("bad.safetensors", bytes), Heads(2));
  }
}

}  // namespace
}  // namespace vitscale
