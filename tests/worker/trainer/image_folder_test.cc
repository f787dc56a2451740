// vitscale-train on a folder of images: a few steps, evaluations, and what becomes of a broken
// image.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kernels/base/path.h"
#include "tests/golden/golden.h"
#include "tests/status_matchers.h"
#include "tests/worker/trainer/child_process.h"
#include "tests/worker/trainer/test_gang.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

std::string Picture(const std::string& name) {
  static const auto* file = new golden::GoldenFile("preprocess");
  const std::vector<int64_t> bytes = file->Integers("file." + name);
  return {bytes.begin(), bytes.end()};
}

class ImageFolderTest : public testing::Test {
 protected:
  ImageFolderTest() {
    const char* kinds[] = {"jpeg_420", "png_palette_trns", "webp_lossy", "jpeg_cmyk", "png_gray16"};
    for (const char* set : {"train", "val"}) {
      for (int i = 0; i < 20; ++i) {
        Put(absl::StrCat(set, i % 2 == 0 ? "/cat/" : "/dog/", i, ".jpg"), Picture(kinds[i % 5]));
      }
    }
    Put("job.yaml",
        TinyJob({
            {"model",
             "{custom: {patch: 8, width: 32, depth: 1, heads: 2, mlp_width: 64}, image_size: "
             "24, channels: 3, classes: 2}"},
            {"data",
             "{train: {format: folder, path: train}, preprocess: "
             "'inception_crop(24)|flip_lr|value_range(-1,1)'}"},
            {"evals", "[{name: val, data: {format: folder, path: val}}]"},
            {"schedule", "{total: 6 steps}"},
            {"batch", "{global: 8}"},
            {"checkpoint", "{dir: runs}"},
        }));
  }
  void Put(const std::string& path, const std::string& bytes) {
    const std::string whole = JoinPath(folder_.path(), path);
    ASSERT_THAT(PosixFileSystem().MakeDirectories(DirectoryName(whole)), IsOk());
    ASSERT_THAT(WriteFileAtomically(PosixFileSystem(), whole, bytes), IsOk());
  }
  int Train(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {VITSCALE_TRAIN,
                                          Path("job.yaml"),
                                          "--checkpoint-root=" + folder_.path(),
                                          "--data-root=" + folder_.path(),
                                          "--threads=2",
                                          "--steps-csv=" + Path("steps.csv")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ChildProcess(arguments, Path("log")).Wait();
  }
  std::string Path(const std::string& name) const { return JoinPath(folder_.path(), name); }
  std::string Log() const { return ReadText(Path("log")); }

  const TemporaryDirectory folder_;
};

TEST_F(ImageFolderTest, TrainsAndEvaluates) {
  EXPECT_EQ(Train(), 0) << Log();
  EXPECT_THAT(ReadText(Path("steps.csv")), HasSubstr("\n6,"));
  EXPECT_THAT(Log(), HasSubstr("val"));
}

TEST_F(ImageFolderTest, ABrokenImageOfTheTrainingDataEndsTheRunWith80AndItsPath) {
  Put("train/dog/7.jpg", Picture("jpeg_420").substr(0, 600));
  EXPECT_EQ(Train(), 80) << Log();
  EXPECT_THAT(Log(), HasSubstr("train/dog/7.jpg': JPEG: the file ends before the image does"));
}

TEST_F(ImageFolderTest, ABrokenImageOfAnEvaluationEndsTheRunWith80AndItsPath) {
  Put("val/cat/2.jpg", "<html>404</html>");
  EXPECT_EQ(Train(), 80) << Log();
  EXPECT_THAT(Log(), HasSubstr("val/cat/2.jpg': neither JPEG, PNG nor WebP"));
}

TEST_F(ImageFolderTest, OtherClassesInTheEvaluationAreRefusedBeforeTheFirstStep) {
  Put("val/bird/1.jpg", Picture("jpeg_420"));
  EXPECT_EQ(Train({"--set=model.classes=3"}), 78) << Log();
  EXPECT_THAT(Log(), HasSubstr("not those of data.train: 0 missing, 1 ('bird') more"));
}

}  // namespace
}  // namespace vitscale
