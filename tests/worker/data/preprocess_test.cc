#include "worker/data/preprocess.h"

#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/base/status.h"
#include "tests/status_matchers.h"
#include "worker/data/image/crop.h"
#include "worker/data/image/resize.h"

namespace vitscale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Pixel (y, x) is 16 y + x.
Image Ramp(int height, int width) {
  Image image;
  image.Resize(height, width, 1);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) image.pixels()[y * width + x] = 16 * y + x;
  }
  return image;
}

absl::StatusOr<std::vector<uint8_t>> Apply(const std::vector<ImageOp>& ops, const Image& image,
                                           int side, uint64_t epoch = 0) {
  std::vector<uint8_t> out(side * side * image.channels());
  Draws draws(1, DrawPurpose::kTest, epoch, 0);
  VITSCALE_RETURN_IF_ERROR(
      ApplyImageOps(ops, image.view(), draws, side, side, absl::MakeSpan(out)));
  return out;
}

TEST(ApplyImageOpsTest, CentralCropRoundsTheOffsetDown) {
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto out,
                                Apply({{ImageOpKind::kCentralCrop, 2, 2}}, Ramp(5, 6), 2));
  EXPECT_THAT(out, ElementsAre(16 + 2, 16 + 3, 32 + 2, 32 + 3));
}

TEST(ApplyImageOpsTest, ResizeCutsFractions) {
  Image image;
  image.Resize(1, 2, 1);
  image.pixels()[0] = 0, image.pixels()[1] = 255;
  // Columns are taken at 1/6 of the way, in the middle and at 5/6: -1/6, 1/2 and 7/6 of a pixel.
  std::vector<uint8_t> out(3);
  ResizeBilinear(image.view(), 1, 3, absl::MakeSpan(out));
  EXPECT_THAT(out, ElementsAre(0, 127, 255));
  out.resize(1);
  ResizeArea(image.view(), 1, 1, absl::MakeSpan(out));
  EXPECT_THAT(out, ElementsAre(127));
}

TEST(ApplyImageOpsTest, OpsFollowEachOtherInOrder) {
  const Image image = Ramp(8, 12);
  VITSCALE_ASSERT_OK_AND_ASSIGN(
      const auto crop_first,
      Apply({{ImageOpKind::kCentralCrop, 4, 4}, {ImageOpKind::kResize, 2, 2}}, image, 2));
  EXPECT_THAT(crop_first, ElementsAre(16 * 2 + 4 + 8, 16 * 2 + 6 + 8, 16 * 4 + 4 + 8,
                                      16 * 4 + 6 + 8));  // means of 2x2 pixels, halves cut
  VITSCALE_ASSERT_OK_AND_ASSIGN(const auto many, Apply({{ImageOpKind::kResize, 16, 24},
                                                        {ImageOpKind::kResizeSmall, 8, 8},
                                                        {ImageOpKind::kCentralCrop, 4, 4},
                                                        {ImageOpKind::kCentralCrop, 2, 2}},
                                                       image, 2));
  EXPECT_EQ(many.size(), 4u);
}

TEST(ApplyImageOpsTest, WhatDoesNotEndAtTheModelsSizeIsAnError) {
  EXPECT_THAT(Apply({{ImageOpKind::kResizeSmall, 4, 4}}, Ramp(8, 12), 4),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("makes 4x6 of it")));
  EXPECT_THAT(Apply({{ImageOpKind::kCentralCrop, 9, 9}}, Ramp(8, 12), 9),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("a crop of 9x9 from an image of 8x12, which is smaller")));
  EXPECT_THAT(Apply({{ImageOpKind::kRandomCrop, 9, 9}}, Ramp(8, 12), 9),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("which is smaller")));
  EXPECT_THAT(Apply({}, Ramp(8, 12), 8), StatusIs(absl::StatusCode::kInvalidArgument));
  // 1 x 60000 with the shorter side made 4000: 960 billion bytes.
  Image thin;
  thin.Resize(1, 60000, 3);
  EXPECT_THAT(Apply({{ImageOpKind::kResizeSmall, 4000, 4000}}, thin, 4),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("want at most")));
}

TEST(ApplyImageOpsTest, RandomCropsReachEveryPlaceAndDependOnTheDrawsAlone) {
  const std::vector<ImageOp> ops = {{ImageOpKind::kRandomCrop, 6, 6}};
  std::set<std::vector<uint8_t>> seen;
  for (uint64_t epoch = 0; epoch < 200; ++epoch) {
    VITSCALE_ASSERT_OK_AND_ASSIGN(const auto out, Apply(ops, Ramp(8, 8), 6, epoch));
    EXPECT_EQ(out, *Apply(ops, Ramp(8, 8), 6, epoch));
    seen.insert(out);
  }
  EXPECT_EQ(seen.size(), 9u);
}

TEST(InceptionBoxTest, BoxesKeepAreaAspectAndTheImagesEdges) {
  for (const auto& [height, width] : {std::pair{375, 500}, {31, 47}, {500, 100}}) {
    const double pixels = height * width;
    for (int i = 0; i < 2000; ++i) {
      Draws draws(3, DrawPurpose::kTest, 0, i);
      const Box box = InceptionBox(height, width, {0.08, 0.9}, draws);
      ASSERT_GE(box.height * box.width, 0.08 * pixels - 1e-3);
      ASSERT_LE(box.height * box.width, 0.9 * pixels + 1e-3);
      ASSERT_GE(box.top, 0);
      ASSERT_GE(box.left, 0);
      ASSERT_LE(box.top + box.height, height);
      ASSERT_LE(box.left + box.width, width);
      // Sides are rounded to whole pixels.
      ASSERT_GE((box.width + 0.5) / box.height, 0.75);
      ASSERT_LE((box.width - 0.5) / box.height, 1.33);
    }
  }
}

TEST(InceptionBoxTest, AnImageWithoutAFittingBoxIsTakenWhole) {
  for (const auto& [height, width] : {std::pair{1, 300}, {300, 1}, {3, 1000}}) {
    Draws draws(3, DrawPurpose::kTest, 0, 0);
    const Box box = InceptionBox(height, width, {0.5, 1}, draws);
    EXPECT_EQ(box.height, height);
    EXPECT_EQ(box.width, width);
  }
  Draws draws(3, DrawPurpose::kTest, 0, 0);
  EXPECT_EQ(InceptionBox(1, 1, {}, draws).height, 1);
}

}  // namespace
}  // namespace vitscale
