#include "worker/data/image/crop.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int kTriesMax = 100;
constexpr float kAspectMin = 0.75f, kAspectMax = 1.33f;  // width / height

int Round(float value) { return static_cast<int>(std::lrint(value)); }

absl::Status CheckFits(int image_height, int image_width, int height, int width) {
  if (height <= image_height && width <= image_width) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a crop of ", height, "x", width,
                                                 " from an image of ", image_height, "x",
                                                 image_width, ", which is smaller"));
}

// The tallest box of this aspect that is neither above the area nor outside of the image.
int TallestBox(int image_height, int image_width, float area_max, float aspect) {
  int height = Round(std::sqrt(area_max / aspect));
  while (height > 0 && Round(static_cast<float>(height) * aspect) > image_width) --height;
  return std::min(height, image_height);
}

// One try. Rounding may carry a box just out of the range of areas: then it is made one row taller,
// or shorter, before the try is given up.
std::optional<Box> TrySize(int image_height, int image_width, float area_min, float area_max,
                           float aspect, Draws& draws) {
  const int tallest = TallestBox(image_height, image_width, area_max, aspect);
  int height = std::min(Round(std::sqrt(area_min / aspect)), tallest);
  if (height < tallest) height += static_cast<int>(draws.Below(tallest - height + 1));
  const auto width_of = [&](int h) { return Round(static_cast<float>(h) * aspect); };
  const auto area_of = [&](int h) { return static_cast<float>(h) * width_of(h); };
  if (area_of(height) < area_min) ++height;
  if (area_of(height) > area_max) --height;
  const int width = width_of(height);
  const float area = area_of(height);
  if (area < area_min || area > area_max || width < 1 || height < 1 || width > image_width ||
      height > image_height) {
    return std::nullopt;
  }
  return Box{0, 0, height, width};
}

int Place(int image_side, int side, Draws& draws) {
  return side < image_side ? static_cast<int>(draws.Below(image_side - side)) : 0;
}

}  // namespace

absl::StatusOr<Box> CentralBox(int image_height, int image_width, int height, int width) {
  VITSCALE_RETURN_IF_ERROR(CheckFits(image_height, image_width, height, width));
  return Box{(image_height - height) / 2, (image_width - width) / 2, height, width};
}

absl::StatusOr<Box> RandomBox(int image_height, int image_width, int height, int width,
                              Draws& draws) {
  VITSCALE_RETURN_IF_ERROR(CheckFits(image_height, image_width, height, width));
  Box box{0, 0, height, width};
  box.top = static_cast<int>(draws.Below(image_height - height + 1));
  box.left = static_cast<int>(draws.Below(image_width - width + 1));
  return box;
}

Box InceptionBox(int image_height, int image_width, const AreaRange& area, Draws& draws) {
  const float pixels = static_cast<float>(image_height) * static_cast<float>(image_width);
  const float area_min = static_cast<float>(area.min) * pixels;
  const float area_max = static_cast<float>(area.max) * pixels;
  for (int attempt = 0; attempt < kTriesMax; ++attempt) {
    const float aspect = kAspectMin + (kAspectMax - kAspectMin) * draws.UniformFloat();
    auto box = TrySize(image_height, image_width, area_min, area_max, aspect, draws);
    if (!box) continue;
    box->top = Place(image_height, box->height, draws);
    box->left = Place(image_width, box->width, draws);
    return *box;
  }
  return {0, 0, image_height, image_width};
}

ImageView Cut(const ImageView& image, const Box& box) {
  VITSCALE_CHECK(box.top >= 0 && box.left >= 0 && box.top + box.height <= image.height &&
                 box.left + box.width <= image.width);
  return {image.Row(box.top) + int64_t{box.left} * image.channels, box.height, box.width,
          image.channels, image.row_bytes};
}

}  // namespace vitscale
