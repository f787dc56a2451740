#include "worker/data/source.h"

#include "gmock/gmock.h"
#include "tests/fault/fault_file.h"
#include "tests/status_matchers.h"
#include "tests/worker/data/idx_test_util.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

DataSourceConfig Idx() {
  DataSourceConfig config;
  config.images = "/data/images";
  config.labels = "/data/labels";
  return config;
}

TEST(OpenSourceTest, ASourceOfAnotherSizeThanTheModelWantsIsRefused) {
  FaultFileSystem fs;
  ASSERT_THAT(fs.MakeDirectory("/data"), IsOk());
  WriteBytes(fs, "/data/images", IdxHeader({1, 2, 2}) + "abcd");
  WriteBytes(fs, "/data/labels", IdxHeader({1}) + std::string(1, '\0'));
  EXPECT_THAT(OpenSource(fs, {"/data"}, Idx(), {10, 2, 2, 1, 0}), IsOk());
  EXPECT_THAT(OpenSource(fs, {"/data"}, Idx(), {10, 0, 0, 0, 0}), IsOk());
  EXPECT_THAT(OpenSource(fs, {"/data"}, Idx(), {10, 28, 28, 1, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("1 images of 2x2x1, 1 classes; the model wants 28x28x1")));
}

TEST(OpenSourceTest, SyntheticSourcesTakeTheirSizeFromTheModel) {
  FaultFileSystem fs;
  DataSourceConfig config;
  config.format = DataFormat::kSynthetic;
  config.synthetic_images = 100;
  config.take = 40;
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto source, OpenSource(fs, {}, config, {10, 8, 6, 3, 0}));
  EXPECT_EQ(source->size(), 40);
  EXPECT_EQ(source->image_bytes(), 144);
  EXPECT_THAT(OpenSource(fs, {}, config, {10, 0, 0, 0, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(OpenSourceTest, SenselessNumbersAreRefused) {
  FaultFileSystem fs;
  DataSourceConfig config = Idx();
  EXPECT_THAT(OpenSource(fs, {"/"}, config, {0, 2, 2, 1, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("classes is 0")));
  config.take = -1;
  EXPECT_THAT(OpenSource(fs, {"/"}, config, {10, 2, 2, 1, 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("take is -1")));
}

}  // namespace
}  // namespace vitscale
