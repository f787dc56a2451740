// checkpoints import, export, show, verify on files in a temporary folder; no coordinator.

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli.h"
#include "gmock/gmock.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "nlohmann/json.hpp"
#include "proto/spec/job_spec.h"
#include "tests/status_matchers.h"
#include "worker/checkpoint/manifest.h"
#include "worker/weights/export_weights.h"

namespace vitscale {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

class WeightsCliTest : public testing::Test {
 protected:
  WeightsCliTest() {
    ModelConfig model;
    model.SetShape(VariantByName("mu/4").value());
    model.image_size = 12;
    model.classes = 5;
    Weights weights(model);
    for (size_t i = 0; i < weights.parameters.size(); ++i) {
      weights.parameters[i] = static_cast<float>(i % 97) / 97;
    }
    for (const char* format : {"npz", "timm"}) {
      const absl::Status written =
          ExportWeights(PosixFileSystem(), Path(absl::StrCat("in.", format)), weights,
                        *SpellingByName(format).value(), {});
      EXPECT_THAT(written, IsOk());
    }
  }

  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  int Run(std::vector<std::string> arguments) {
    out_.str("");
    err_.str("");
    std::istringstream in;
    Context context{.out = out_, .err = err_, .in = in};
    context.environment = [](const char*) { return ""; };
    context.connect = [](const std::string&, absl::Duration) {
      return absl::StatusOr<std::unique_ptr<ControlClient>>(absl::UnavailableError("not needed"));
    };
    arguments.insert(arguments.begin(), "checkpoints");
    return RunCli(arguments, context);
  }
  // The folder of a fresh import.
  std::string Import(const std::string& file = "in.npz") {
    EXPECT_EQ(Run({"import", Path(file), "--out", Path("runs")}), kExitOk) << err_.str();
    return std::string(absl::StripSuffix(out_.str(), "\n"));
  }
  std::string Read(const std::string& path) {
    return PosixFileSystem().ReadFile(path, 1 << 24).value();
  }
  void Damage(const std::string& path, int64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file.put('\x55');
  }

  TemporaryDirectory folder_;
  std::ostringstream out_, err_;
};

TEST_F(WeightsCliTest, ImportPrintsTheFolderAndSaysWhatItFound) {
  const std::string path = Import();
  EXPECT_THAT(path, AllOf(StartsWith(Path("runs/")), EndsWith("/a0000.g0000.step_000000000")));
  EXPECT_THAT(err_.str(), HasSubstr("big_vision: mu/4, image 12, map head, 5 classes"));
}

TEST_F(WeightsCliTest, TheManifestHoldsAValidJobFileWithTheModel) {
  const auto manifest = ManifestFromJson(Read(Import() + "/manifest.json"));
  ASSERT_THAT(manifest, IsOk());
  EXPECT_TRUE(manifest->weights_only);
  const auto spec = ParseJobSpec(manifest->spec, SpecFormat::kYaml);
  ASSERT_THAT(spec, IsOk());
  EXPECT_EQ(spec->model().variant(), "mu/4");
  EXPECT_EQ(spec->model().image_size(), 12);
  EXPECT_EQ(spec->model().classes(), 5);
}

TEST_F(WeightsCliTest, ExportGivesBackTheSameFile) {
  for (const char* format : {"npz", "timm"}) {
    const std::string path = Import(absl::StrCat("in.", format));
    const std::string out = Path(absl::StrCat("out.", format));
    EXPECT_EQ(Run({"export", path, "--format", format, "--out", out}), kExitOk) << err_.str();
    EXPECT_EQ(out_.str(), out + "\n");
    EXPECT_THAT(err_.str(), HasSubstr("fits "));
    EXPECT_EQ(Read(out), Read(Path(absl::StrCat("in.", format))));
  }
}

TEST_F(WeightsCliTest, ExportTakesTheFolderOfAJobForItsNewestCheckpoint) {
  const std::string job = DirectoryName(Import());
  EXPECT_EQ(Run({"export", job, "--format", "timm", "--out", Path("o")}), kExitOk) << err_.str();
}

TEST_F(WeightsCliTest, ExportNeverReplacesAFileUnlessForced) {
  const std::string path = Import();
  std::ofstream(Path("o")) << "precious";
  EXPECT_EQ(Run({"export", path, "--format", "npz", "--out", Path("o")}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--force"));
  EXPECT_EQ(Read(Path("o")), "precious");
  EXPECT_EQ(Run({"export", path, "--format", "npz", "--out", Path("o"), "--force"}), kExitOk);
  EXPECT_NE(Read(Path("o")), "precious");
}

TEST_F(WeightsCliTest, ExportReplacesNothingButRegularFiles) {
  const std::string path = Import();
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_NE(Run({"export", path, "--format", "npz", "--out", Path("pipe"), "--force"}), kExitOk);
  EXPECT_THAT(err_.str(), HasSubstr("is no regular file"));
  EXPECT_FALSE(PosixFileSystem().Stat(Path("pipe"))->is_regular);
}

TEST_F(WeightsCliTest, ExportNamesWhatTheFormatHasNoPlaceFor) {
  const std::string path = Import();
  EXPECT_EQ(Run({"export", path, "--format", "hf", "--out", Path("o")}), kExitUsage);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("head/kernel, head/bias"), HasSubstr("--without-head")));
  EXPECT_THAT(PosixFileSystem().Exists(Path("o")).value(), false);
}

TEST_F(WeightsCliTest, AFileThatDoesNotFitLeavesNothingBehind) {
  EXPECT_EQ(Run({"import", Path("in.npz"), "--out", Path("runs"), "--variant", "S/16"}),
            kExitUsage);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("nothing is loaded: 176 missing, 37 misshapen"),
                                HasSubstr("misshapen: 'embedding/kernel'"), HasSubstr(" more\n")));
  const std::string told = err_.str();
  EXPECT_LE(std::count(told.begin(), told.end(), '\n'), 13) << told;
  EXPECT_FALSE(PosixFileSystem().Exists(Path("runs")).value());
  EXPECT_EQ(Run({"import", Path("none.npz"), "--out", Path("runs")}), kExitNotFound);
}

TEST_F(WeightsCliTest, AFileThatIsNoWeightFileIsSaidToBeNeither) {
  for (const char* text : {"", "x", "import torch  # by mistake\n"}) {
    std::ofstream(Path("file")) << text;
    EXPECT_EQ(Run({"import", Path("file"), "--out", Path("runs")}), kExitUsage);
    EXPECT_THAT(err_.str(), HasSubstr("file': is neither an .npz nor a .safetensors file"));
  }
}

TEST_F(WeightsCliTest, ExportOfADamagedPartSaysThatItIsDamaged) {
  const std::string path = Import();
  const std::string part = path + "/part-00000-of-00001.safetensors";
  const std::string bytes = Read(part);
  Damage(part, static_cast<int64_t>(bytes.find("params/head/bias")) + 8);  // by another name
  EXPECT_EQ(Run({"export", path, "--format", "npz", "--out", Path("o")}), kExitFailed);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr(path + "' is damaged, see vitscale checkpoints verify: "),
                                HasSubstr("params/head/bias")));
  EXPECT_FALSE(PosixFileSystem().Exists(Path("o")).value());
}

TEST_F(WeightsCliTest, AJobFileIsLawForTheWholeModel) {
  std::ofstream(Path("job.yaml")) << R"(
model: {variant: mu/4, image_size: 20, classes: 7, loss: softmax}
data: {train: {format: synthetic, synthetic_images: 64}}
optimizer: {lr: 1e-3}
schedule: {total: 2 steps}
batch: {global: 8}
)";
  const std::vector<std::string> import = {"import",     Path("in.timm"), "--out",
                                           Path("runs"), "--job",         Path("job.yaml")};
  EXPECT_EQ(Run(import), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("'head.weight' is [5, 32], want [7, 32]"));
  std::vector<std::string> with_new_head = import;
  with_new_head.insert(with_new_head.end(), {"--without-head", "-o", "json"});
  EXPECT_EQ(Run(with_new_head), kExitOk) << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["model"], "mu/4, image 20, map head, 7 classes, softmax, learned positions");
  EXPECT_THAT(json["notes"].dump(), HasSubstr("resampled from 3x3 to 5x5"));
}

TEST_F(WeightsCliTest, AJobFileWithOtherChannelsIsRefused) {
  std::ofstream(Path("job.yaml")) << R"(
model: {variant: mu/4, image_size: 12, channels: 1, classes: 5}
data: {train: {format: synthetic, synthetic_images: 64}}
optimizer: {lr: 1e-3}
schedule: {total: 2 steps}
batch: {global: 8}
)";
  EXPECT_EQ(Run({"import", Path("in.timm"), "--out", Path("runs"), "--job", Path("job.yaml")}),
            kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("model.channels is 1"));
  EXPECT_FALSE(PosixFileSystem().Exists(Path("runs")).value());
}

TEST_F(WeightsCliTest, ShowSaysWhatItIsInWordsAndAsJson) {
  const std::string path = Import();
  EXPECT_EQ(Run({"show", path, "--tensors"}), kExitOk);
  EXPECT_THAT(out_.str(),
              AllOf(HasSubstr("holds        weights only, imported"),
                    HasSubstr("model        mu/4, image 12"), HasSubstr("step         0"),
                    HasSubstr("params/embedding/kernel"), HasSubstr("[4, 4, 3, 32]")));
  EXPECT_EQ(Run({"show", path, "-o", "json"}), kExitOk);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["model"]["width"], 32);
  EXPECT_EQ(json["weights_only"], true);
  EXPECT_EQ(json["files"].size(), 1u);
  EXPECT_EQ(json["tensors"][0]["dtype"], "f32");
}

TEST_F(WeightsCliTest, VerifyIsZeroForGoodAndOneForEveryKindOfDamage) {
  const std::string good = Import();
  EXPECT_EQ(Run({"verify", good}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("ok"));

  const std::string flipped = Import();
  Damage(flipped + "/part-00000-of-00001.safetensors", 20000);
  EXPECT_EQ(Run({"verify", flipped}), kExitFailed);
  EXPECT_THAT(out_.str(), HasSubstr("crc32c is"));

  const std::string cut = Import();
  std::filesystem::resize_file(cut + "/part-00000-of-00001.safetensors", 1000);
  EXPECT_EQ(Run({"verify", cut, "-o", "json"}), kExitFailed);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["ok"], false);

  const std::string manifest = Import();
  Damage(manifest + "/manifest.json", 50);
  EXPECT_EQ(Run({"verify", manifest}), kExitFailed);

  const std::string unfinished = Import();
  std::filesystem::remove(unfinished + "/manifest.json");
  EXPECT_EQ(Run({"verify", unfinished}), kExitFailed);
}

TEST_F(WeightsCliTest, AFolderThatIsNoCheckpointIsNotFoundAndStaysEmpty) {
  std::filesystem::create_directory(Path("empty"));
  EXPECT_EQ(Run({"show", Path("empty")}), kExitNotFound);
  EXPECT_EQ(Run({"verify", Path("nothing")}), kExitNotFound);
  EXPECT_EQ(Run({"show", Path("in.npz")}), kExitUsage);
  EXPECT_THAT(PosixFileSystem().List(Path("empty")).value(), IsEmpty());
  EXPECT_FALSE(PosixFileSystem().Exists(Path("nothing")).value());
}

TEST_F(WeightsCliTest, HelpTeachesTheFormats) {
  EXPECT_EQ(Run({"import", "--help"}), kExitOk);
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("--without-head"), HasSubstr("params/img/")));
  EXPECT_EQ(Run({"export", "--help"}), kExitOk);
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("gelu_tanh"), HasSubstr("fc_norm=False")));
}

}  // namespace
}  // namespace vitscale
