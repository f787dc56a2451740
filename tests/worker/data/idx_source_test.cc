#include "worker/data/idx_source.h"

#include "gmock/gmock.h"
#include "tests/fault/fault_file.h"
#include "tests/status_matchers.h"
#include "tests/worker/data/idx_test_util.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class IdxSourceTest : public testing::Test {
 protected:
  // Three images of 2x2; image i holds 10 i, 10 i + 1, …; label i is i.
  IdxSourceTest() {
    for (int i = 0; i < 3; ++i) {
      for (int p = 0; p < 4; ++p) pixels_.push_back(static_cast<char>(10 * i + p));
    }
    EXPECT_THAT(fs_.MakeDirectory("/data"), IsOk());
    Write(IdxHeader({3, 2, 2}) + pixels_, IdxHeader({3}) + labels_);
  }
  void Write(const std::string& images, const std::string& labels) {
    WriteBytes(fs_, "/data/images", images);
    WriteBytes(fs_, "/data/labels", labels);
  }
  absl::StatusOr<std::unique_ptr<ImageSource>> Open(int64_t take = 0, int classes = 10) {
    DataSourceConfig config;
    config.images = "images";
    config.labels = "labels";
    config.take = take;
    SourceRequest request;
    request.classes = classes;
    return OpenIdxSource(fs_, {"/data"}, config, request);
  }
  void ExpectDataLoss(const std::string& images, const std::string& labels,
                      const std::string& message) {
    Write(images, labels);
    EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(message)));
    Write(Gzip(images), Gzip(labels));
    EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(message)));
  }

  FaultFileSystem fs_;
  std::string pixels_, labels_ = std::string("\0\1\2", 3);
};

std::vector<uint8_t> Pixels(const ImageSource& source, int64_t index) {
  std::vector<uint8_t> pixels(source.image_bytes());
  EXPECT_THAT(source.Read(index, absl::MakeSpan(pixels)), IsOk());
  return pixels;
}

TEST_F(IdxSourceTest, ReadsPlainAndGzipAlike) {
  for (const bool gzip : {false, true}) {
    if (gzip) Write(Gzip(IdxHeader({3, 2, 2}) + pixels_), Gzip(IdxHeader({3}) + labels_));
    VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, Open());
    EXPECT_EQ(source->size(), 3);
    EXPECT_EQ(source->height(), 2);
    EXPECT_EQ(source->channels(), 1);
    EXPECT_EQ(source->classes_seen(), 3);
    EXPECT_EQ(source->label(2), 2);
    EXPECT_THAT(Pixels(*source, 1), ElementsAre(10, 11, 12, 13));
    EXPECT_EQ(source->description(), "idx '/data/images': 3 images of 2x2x1, 3 classes");
  }
}

TEST_F(IdxSourceTest, ReadsFourDimensionsAsChannelsLast) {
  Write(IdxHeader({3, 1, 2, 2}) + pixels_, IdxHeader({3}) + labels_);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, Open());
  EXPECT_EQ(source->height(), 1);
  EXPECT_EQ(source->channels(), 2);
  EXPECT_EQ(source->image_bytes(), 4);
}

TEST_F(IdxSourceTest, TakeKeepsTheFirstOnes) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto two, Open(2));
  EXPECT_EQ(two->size(), 2);
  EXPECT_EQ(two->classes_seen(), 2);
  EXPECT_THAT(Pixels(*two, 1), ElementsAre(10, 11, 12, 13));
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto all, Open(100));
  EXPECT_EQ(all->size(), 3);
}

TEST_F(IdxSourceTest, AWrongMagicNumberIsShown) {
  const std::string labels = IdxHeader({3}) + labels_;
  ExpectDataLoss(labels, labels, "magic number is 0x00000801, want 0x00000803 to 0x00000804");
  ExpectDataLoss("not an IDX file", labels, "magic number is 0x6e6f7420");
  std::string floats = IdxHeader({3, 2, 2}) + pixels_;
  floats[2] = 0x0d;
  ExpectDataLoss(floats, labels, "magic number is 0x00000d03");
  ExpectDataLoss(IdxHeader({3, 2, 2}) + pixels_, IdxHeader({3, 1}) + labels_, "want 0x00000801");
}

TEST_F(IdxSourceTest, EveryTruncationIsNamed) {
  const std::string images = IdxHeader({3, 2, 2}) + pixels_, labels = IdxHeader({3}) + labels_;
  ExpectDataLoss("", labels, "truncated in its magic number: 0 of 4 bytes");
  ExpectDataLoss(images.substr(0, 10), labels, "truncated in its dimensions: 6 of 12 bytes");
  ExpectDataLoss(images.substr(0, 20), labels, "truncated: 4 elements, its dimensions want 12");
  ExpectDataLoss(images, labels.substr(0, 10), "truncated: 2 elements");
  for (size_t length = 0; length < images.size(); ++length) {
    Write(images.substr(0, length), labels);
    EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kDataLoss)) << length;
  }
}

TEST_F(IdxSourceTest, ATruncatedOrBrokenGzipIsNamed) {
  const std::string labels = IdxHeader({3}) + labels_;
  const std::string images = Gzip(IdxHeader({3, 2, 2}) + pixels_);
  for (size_t length = 0; length < images.size(); ++length) {
    Write(images.substr(0, length), labels);
    EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("/data/images"))) << length;
  }
  // A flipped bit is an error, or one that means nothing (time stamp, padding) and changes nothing.
  for (size_t byte = 0; byte < images.size(); ++byte) {
    std::string damaged = images;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 0x10);
    Write(damaged, labels);
    const auto source = Open();
    if (source.ok()) {
      EXPECT_THAT(Pixels(**source, 2), ElementsAre(20, 21, 22, 23)) << byte;
    }
  }
}

TEST_F(IdxSourceTest, TrailingBytesAreNamed) {
  const std::string images = IdxHeader({3, 2, 2}) + pixels_, labels = IdxHeader({3}) + labels_;
  ExpectDataLoss(images + "x", labels, "trailing bytes after the 12 elements");
  ExpectDataLoss(images, labels + "x", "trailing bytes after the 3 elements");
  Write(Gzip(images) + "rubbish", labels);  // after the gzip stream
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("broken gzip")));
}

TEST_F(IdxSourceTest, SeveralGzipMembersAreOneFile) {
  const std::string images = IdxHeader({3, 2, 2}) + pixels_;
  Write(Gzip(images.substr(0, 5)) + Gzip(images.substr(5)), IdxHeader({3}) + labels_);
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, Open());
  EXPECT_THAT(Pixels(*source, 2), ElementsAre(20, 21, 22, 23));
}

TEST_F(IdxSourceTest, ALabelOutOfRangeIsNamedWithItsPlace) {
  EXPECT_THAT(Open(0, 2),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("label 2 is 2, want 0 to 1 (the model has 2 classes)")));
}

TEST_F(IdxSourceTest, DifferentNumbersOfImagesAndLabelsAreNamed) {
  ExpectDataLoss(IdxHeader({3, 2, 2}) + pixels_, IdxHeader({2}) + labels_.substr(0, 2),
                 "3 images and 2 labels");
}

TEST_F(IdxSourceTest, ZeroAndHugeDimensionsAreRefusedBeforeAnythingIsAllocated) {
  const std::string labels = IdxHeader({3}) + labels_;
  ExpectDataLoss(IdxHeader({3, 0, 2}), labels, "dimensions are [3, 0, 2]");
  Write(IdxHeader({0xffffffff, 0xffffffff, 0xffffffff}), labels);
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit of")));
  // Within the limit, but not there: costs one small piece of memory.
  ExpectDataLoss(IdxHeader({0x10000000, 4, 4}) + pixels_, labels, "truncated: 12 elements");
}

TEST_F(IdxSourceTest, PathsMustLieBelowARoot) {
  DataSourceConfig config;
  config.images = "/etc/images";
  config.labels = "labels";
  SourceRequest request;
  request.classes = 10;
  EXPECT_THAT(OpenIdxSource(fs_, {"/data"}, config, request),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("/etc/images")));
  config.images = "missing";
  EXPECT_THAT(OpenIdxSource(fs_, {"/data"}, config, request),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("missing")));
}

TEST(FashionMnistTest, IsReadWhole) {
  FileSystem& fs = PosixFileSystem();
  const std::string root = "/usr/share/datasets/fashion-mnist";
  if (!*fs.Exists(root)) GTEST_SKIP() << "package dataset-fashion-mnist is not installed";
  DataSourceConfig config;
  config.images = "train-images-idx3-ubyte.gz";
  config.labels = "train-labels-idx1-ubyte.gz";
  SourceRequest request;
  request.classes = 10;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, OpenIdxSource(fs, {root}, config, request));
  EXPECT_EQ(source->size(), 60000);
  int64_t sum = 0, per_class[10] = {};
  for (int64_t i = 0; i < source->size(); ++i) {
    ++per_class[source->label(i)];
    for (const uint8_t pixel : Pixels(*source, i)) sum += pixel;
  }
  EXPECT_THAT(per_class, testing::Each(6000));
  EXPECT_NEAR(sum / (60000.0 * 784 * 255), 0.2860,
              5e-5);  // the mean that the data set is known for
}

}  // namespace
}  // namespace vitscale
