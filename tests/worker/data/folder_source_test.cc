#include "worker/data/folder_source.h"

#include <unistd.h>

#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "tests/golden/golden.h"
#include "tests/status_matchers.h"
#include "tests/worker/data/idx_test_util.h"
#include "worker/data/folder_index.h"
#include "worker/data/loader.h"
#include "worker/data/sample_order.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;

std::string Picture(const std::string& name) {
  static const auto* file = new golden::GoldenFile("preprocess");
  const std::vector<int64_t> bytes = file->Integers("file." + name);
  return {bytes.begin(), bytes.end()};
}

class FolderTest : public testing::Test {
 protected:
  void Put(const std::string& path, const std::string& bytes) {
    const std::string whole = JoinPath(folder_.path(), path);
    ASSERT_THAT(fs_.MakeDirectories(DirectoryName(whole)), IsOk());
    WriteBytes(fs_, whole, bytes);
  }
  void Link(const std::string& target, const std::string& path) {
    ASSERT_EQ(symlink(target.c_str(), JoinPath(folder_.path(), path).c_str()), 0);
  }
  absl::StatusOr<FolderIndex> Scan(int classes_max = 100, int64_t take = 0) {
    VITSCALE_ASSIGN_OR_RETURN(const std::string root, fs_.RealPath(folder_.path() + "/set"));
    return FolderIndex::Scan(fs_, {folder_.path()}, root, classes_max, take);
  }
  // "label:path below the set" of every image.
  std::vector<std::string> Listed(const FolderIndex& index) {
    const std::string root = *fs_.RealPath(folder_.path()) + "/";
    std::vector<std::string> all;
    for (int64_t i = 0; i < index.size(); ++i) {
      all.push_back(absl::StrCat(index.label(i), ":", index.PathOf(i).substr(root.size())));
    }
    return all;
  }
  absl::StatusOr<std::unique_ptr<ImageSource>> Open(std::vector<ImageOp> ops, int side = 8,
                                                    uint64_t seed = 0) {
    DataSourceConfig config;
    config.format = DataFormat::kFolder;
    config.path = "set";
    SourceRequest request{10, side, side, 3};
    request.ops = std::move(ops);
    request.draw_seed = seed;
    return OpenSource(fs_, {folder_.path()}, config, request);
  }

  FileSystem& fs_ = PosixFileSystem();
  const TemporaryDirectory folder_;
  const std::vector<ImageOp> eval_{{ImageOpKind::kResizeSmall, 10, 10},
                                   {ImageOpKind::kCentralCrop, 8, 8}};
  const std::vector<ImageOp> train_{{ImageOpKind::kInceptionCrop, 8, 8}};
};

TEST_F(FolderTest, ClassesAreTheFoldersInTheByteOrderOfTheirNames) {
  for (const char* path :
       {"set/b/1.jpg", "set/b/deep/er/0.png", "set/B/x.WEBP", "set/a10/y.JPEG", "set/a9/z.jpg",
        "set/b/.hidden.jpg", "set/.git/c.jpg", "set/README.txt"}) {
    Put(path, "");
  }
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FolderIndex index, Scan());
  EXPECT_THAT(index.class_names(), ElementsAre("B", "a10", "a9", "b"));
  EXPECT_THAT(Listed(index), ElementsAre("0:set/B/x.WEBP", "1:set/a10/y.JPEG", "2:set/a9/z.jpg",
                                         "3:set/b/1.jpg", "3:set/b/deep/er/0.png"));
}

TEST_F(FolderTest, OtherNamesAreTakenByTheirContentOrRefused) {
  Put("set/a/picture", Picture("jpeg_gray"));
  Put("set/a/n01440764.img", Picture("png_rgb"));
  EXPECT_EQ(Scan()->size(), 2);
  Put("set/a/list.txt", "n01440764.img");
  EXPECT_THAT(Scan(), StatusIs(absl::StatusCode::kDataLoss,
                               HasSubstr("set/a/list.txt' is no JPEG, PNG or WebP file")));
}

TEST_F(FolderTest, WhatIsNoSetOfClassFoldersIsAnErrorThatSaysSo) {
  Put("set/x.txt", "");
  EXPECT_THAT(Scan(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("holds no folders")));
  ASSERT_THAT(fs_.MakeDirectory(folder_.path() + "/set/a"), IsOk());
  EXPECT_THAT(Scan(), StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("its 1 class folders hold no images")));
  Put("set/b/1.jpg", "");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FolderIndex index, Scan());
  EXPECT_THAT(Listed(index), ElementsAre("1:set/b/1.jpg")) << "an empty class keeps its number";
  EXPECT_THAT(Scan(1), StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("2 class folders, want at most 1")));
  Put("set/2.jpg", "");
  EXPECT_THAT(Scan(), StatusIs(absl::StatusCode::kInvalidArgument,
                               HasSubstr("set/2.jpg' lies beside the class folders")));
}

TEST_F(FolderTest, SymlinksAreFollowedBelowTheDataRootAndNowhereElse) {
  Put("pool/1.jpg", "");
  Put("pool/more/2.jpg", "");
  Put("set/a/0.jpg", "");
  Link("../../pool/1.jpg", "set/a/linked.jpg");
  Link("../../pool/more", "set/a/more");
  Link("../pool", "set/b");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const FolderIndex index, Scan());
  EXPECT_THAT(Listed(index), ElementsAre("0:set/a/0.jpg", "0:pool/1.jpg", "0:pool/more/2.jpg",
                                         "1:pool/1.jpg", "1:pool/more/2.jpg"));
  Link("/etc/hostname", "set/a/z.jpg");
  EXPECT_THAT(Scan(), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("set/a/z.jpg")));
}

TEST_F(FolderTest, SymlinksThatLeadNowhereOrInCirclesAreErrors) {
  Put("set/a/0.jpg", "");
  Link("gone.jpg", "set/a/1.jpg");
  EXPECT_THAT(Scan(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("set/a/1.jpg")));
  ASSERT_THAT(fs_.Remove(folder_.path() + "/set/a/1.jpg"), IsOk());
  Link("..", "set/a/loop");
  EXPECT_THAT(Scan(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("contains itself")));
}

TEST_F(FolderTest, TakeGoesThroughTheClassesInTurn) {
  for (const char* path :
       {"set/a/1.jpg", "set/a/2.jpg", "set/a/3.jpg", "set/b/1.jpg", "set/c/1.jpg", "set/c/2.jpg"}) {
    Put(path, "");
  }
  EXPECT_THAT(Listed(*Scan(100, 2)), ElementsAre("0:set/a/1.jpg", "1:set/b/1.jpg"));
  EXPECT_THAT(Listed(*Scan(100, 4)),
              ElementsAre("0:set/a/1.jpg", "0:set/a/2.jpg", "1:set/b/1.jpg", "2:set/c/1.jpg"));
  EXPECT_EQ(Scan(100, 100)->size(), 6);
  EXPECT_NE(Scan(100, 4)->fingerprint(), Scan(100, 5)->fingerprint());
}

TEST_F(FolderTest, TheFingerprintIsOfNamesAndNotOfPlaces) {
  Put("set/a/1.jpg", "");
  Put("other/a/1.jpg", "");
  VITSCALE_ASSERT_OK_AND_ASSIGN(const std::string other, fs_.RealPath(folder_.path() + "/other"));
  const uint64_t before = Scan()->fingerprint();
  EXPECT_EQ(FolderIndex::Scan(fs_, {folder_.path()}, other, 9, 0)->fingerprint(), before);
  Put("set/a/2.jpg", "");
  EXPECT_NE(Scan()->fingerprint(), before);
}

TEST_F(FolderTest, ImagesOfAnySizeComeOutAsTheModelWantsThem) {
  Put("set/a/1.png", Picture("png_palette"));
  Put("set/a/2.jpg", Picture("png_gray16"));  // the name lies; the content counts
  Put("set/b/3.webp", Picture("webp_lossy"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, Open(eval_));
  EXPECT_EQ(source->size(), 3);
  EXPECT_EQ(source->image_bytes(), 8 * 8 * 3);
  EXPECT_EQ(source->label(2), 1);
  EXPECT_TRUE(source->is_slow());
  std::vector<uint8_t> pixels(source->image_bytes());
  for (int i = 0; i < 3; ++i) EXPECT_THAT(source->Read(i, absl::MakeSpan(pixels)), IsOk());
}

TEST_F(FolderTest, AnImageThatCannotBeDecodedIsNamedWhenItsTurnComes) {
  Put("set/a/1.jpg", Picture("jpeg_420"));
  Put("set/a/2.jpg", Picture("jpeg_420").substr(0, 700));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, Open(eval_));
  std::vector<uint8_t> pixels(source->image_bytes());
  EXPECT_THAT(source->Read(0, absl::MakeSpan(pixels)), IsOk());
  EXPECT_THAT(
      source->Read(1, absl::MakeSpan(pixels)),
      StatusIs(absl::StatusCode::kDataLoss,
               AllOf(HasSubstr("image '"), HasSubstr("set/a/2.jpg': JPEG: the file ends"))));
  ASSERT_THAT(fs_.Remove(folder_.path() + "/set/a/1.jpg"), IsOk());
  EXPECT_THAT(source->Read(0, absl::MakeSpan(pixels)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("set/a/1.jpg")));
}

TEST_F(FolderTest, OpsThatDoNotFitTheImagesAreSeenAtOpening) {
  Put("set/a/1.jpg", Picture("jpeg_420"));
  EXPECT_THAT(Open({}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("makes 37x53")));
  EXPECT_THAT(
      Open({{ImageOpKind::kCentralCrop, 40, 40}}, 40),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("set/a/1.jpg': a crop of 40x40")));
}

// The pixels of every place of every step, whatever makes the batches.
TEST_F(FolderTest, CropsDependOnSeedEpochAndSampleAlone) {
  for (int i = 0; i < 6; ++i) Put(absl::StrCat("set/a/", i, ".jpg"), Picture("jpeg_420"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, Open(train_, 8, 5));
  const SampleOrder order = *SampleOrder::Create(5, 6, 4);
  const auto pixels = [&](std::vector<BatchRange> ranges, LoaderOptions options) {
    std::map<std::pair<int64_t, int64_t>, std::vector<uint8_t>> all;  // (step, place)
    for (const BatchRange& range : ranges) {
      BatchLoader loader(*source, TrainBatches(order, 5, Preprocess(), {range}, 0, 10), options);
      Batch batch;
      while (loader.Next(&batch).ok()) {
        for (int64_t i = 0; i < batch.size(); ++i) {
          const auto begin = batch.images.begin() + i * source->image_bytes();
          all[{batch.step, batch.first + i}] = {begin, begin + source->image_bytes()};
        }
      }
    }
    return all;
  };
  const auto one = pixels({{0, 4}}, {1, 1});
  EXPECT_EQ(one.size(), 40u);
  EXPECT_EQ(one, pixels({{0, 2}, {2, 2}}, {3, 4}));
  std::set<std::vector<uint8_t>> different;
  for (const auto& [place, image] : one) different.insert(image);
  EXPECT_GT(different.size(), 35u) << "every visit has its own crop";
  std::vector<uint8_t> again(source->image_bytes()), other(source->image_bytes());
  ASSERT_THAT(source->ReadInEpoch(0, 1, absl::MakeSpan(again)), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto reseeded, Open(train_, 8, 6));
  ASSERT_THAT(reseeded->ReadInEpoch(0, 1, absl::MakeSpan(other)), IsOk());
  EXPECT_NE(again, other);
}

TEST_F(FolderTest, EvaluationsMustHaveTheClassesOfTraining) {
  Put("set/a/1.jpg", Picture("jpeg_420"));
  Put("set/b/1.jpg", Picture("jpeg_420"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto train, Open(eval_));
  Put("set/c/1.jpg", Picture("jpeg_420"));
  ASSERT_THAT(RemoveTree(fs_, folder_.path() + "/set/a"), IsOk());
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto eval, Open(eval_));
  EXPECT_THAT(CheckSameClasses(*train, *train), IsOk());
  EXPECT_THAT(CheckSameClasses(*train, *eval),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("not those of data.train: 1 ('a') missing, 1 ('c') more")));
  EXPECT_THAT(CheckClassNames(ClassNamesHash(*train), *train), IsOk());
  EXPECT_THAT(CheckClassNames(0, *eval), IsOk());  // not known what the head was trained on
  EXPECT_THAT(CheckClassNames(ClassNamesHash(*train), *eval),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("('b' to 'c') are not those that the head was trained on")));
}

TEST_F(FolderTest, SlowSourcesGetThreadsByCoresAndMemory) {
  Put("set/a/1.jpg", Picture("jpeg_420"));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, Open(eval_));
  EXPECT_EQ(LoaderOptionsFor(*source, 64, 1).threads, 1);
  EXPECT_EQ(LoaderOptionsFor(*source, 64, 8).threads, 8);
  EXPECT_EQ(LoaderOptionsFor(*source, 64, 8).prefetch, 9);
  EXPECT_EQ(LoaderOptionsFor(*source, 64, 200).threads, 16);
  EXPECT_EQ(LoaderOptionsFor(*source, int64_t{1} << 22, 8).prefetch, 2) << "805 MB a batch";
}

}  // namespace
}  // namespace vitscale
