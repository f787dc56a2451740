#include "worker/data/synthetic_source.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/philox.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int kGrid = 4;
constexpr int kPatternLow = 64, kPatternRange = 128;
constexpr int kNoiseRange = 96;  // 64 - 48 and 191 + 47 stay inside of [0, 255]: nothing is clipped

class SyntheticSource : public ImageSource {
 public:
  SyntheticSource(int64_t images, const SourceRequest& request)
      : images_(images), request_(request) {}

  int64_t size() const override { return images_; }
  int height() const override { return request_.height; }
  int width() const override { return request_.width; }
  int channels() const override { return request_.channels; }
  int classes_seen() const override { return request_.classes; }
  int32_t label(int64_t index) const override {
    return static_cast<int32_t>(
        Draws(request_.seed, DrawPurpose::kSyntheticLabel, 0, index).Below(request_.classes));
  }

  absl::Status Read(int64_t index, absl::Span<uint8_t> pixels) const override {
    VITSCALE_CHECK(index >= 0 && index < size()) << "image " << index << " of " << size();
    VITSCALE_CHECK(static_cast<int64_t>(pixels.size()) == image_bytes());
    const std::vector<int> pattern = PatternOf(label(index));
    Draws noise(request_.seed, DrawPurpose::kSyntheticImage, 0, index);
    uint8_t* to = pixels.data();
    for (int y = 0; y < height(); ++y) {
      const int* row = pattern.data() + y * kGrid / height() * kGrid * channels();
      for (int x = 0; x < width(); ++x) {
        const int* cell = row + x * kGrid / width() * channels();
        for (int c = 0; c < channels(); ++c) {
          const int drawn = static_cast<int>((noise.Bits() >> 16) * kNoiseRange >> 16);
          *to++ = static_cast<uint8_t>(cell[c] + drawn - kNoiseRange / 2);
        }
      }
    }
    return absl::OkStatus();
  }
  std::string description() const override {
    return absl::StrCat("synthetic: ", images_, " images of ", height(), "x", width(), "x",
                        channels(), ", ", request_.classes, " classes");
  }

 private:
  std::vector<int> PatternOf(int32_t label) const {
    Draws draws(request_.seed, DrawPurpose::kSyntheticClass, 0, label);
    std::vector<int> pattern(kGrid * kGrid * channels());  // [grid, grid, channels]
    for (int& value : pattern) value = kPatternLow + static_cast<int>(draws.Below(kPatternRange));
    return pattern;
  }

  int64_t images_;
  SourceRequest request_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ImageSource>> MakeSyntheticSource(int64_t images,
                                                                 const SourceRequest& request) {
  if (images < 1 || request.classes < 1 || request.height < 1 || request.width < 1 ||
      request.channels < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "synthetic source of ", images, " images of ", request.height, "x", request.width, "x",
        request.channels, " in ", request.classes, " classes: want all of them positive"));
  }
  return std::make_unique<SyntheticSource>(images, request);
}

}  // namespace vitscale
