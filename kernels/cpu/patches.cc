// ImagesToPatches: every byte value is mapped once, then patches are table look-ups.

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "kernels/base/bf16.h"
#include "kernels/cpu/cpu_op.h"

namespace vitscale::cpu {
namespace {

// What byte v becomes: range_min + v * (range_max - range_min) / 255, in f64 and rounded once.
template <typename T>
std::array<T, 256> PixelTable(float low, float high) {
  std::array<T, 256> table;
  for (int v = 0; v < 256; ++v) {
    const float value = static_cast<float>(low + v * (static_cast<double>(high) - low) / 255.0);
    if constexpr (sizeof(T) == sizeof(float)) {
      table[v] = value;
    } else {
      table[v] = {ToBf16(value)};
    }
  }
  return table;
}

template <typename T>
class ImagesToPatchesOp : public CpuOp {
 public:
  ImagesToPatchesOp(const ImagesToPatchesArgs& args, CpuOpBuilder& builder)
      : batch_(args.images.shape[0]),
        height_(args.images.shape[1]),
        width_(args.images.shape[2]),
        channels_(args.images.shape[3]),
        crop_height_(args.crop_height),
        crop_width_(args.crop_width),
        patch_(args.patch),
        table_(PixelTable<T>(args.range_min, args.range_max)),
        images_(builder.Memory<const uint8_t>(args.images)),
        augment_(builder.Memory<const int32_t>(args.augment)),
        patches_(builder.Memory<T>(args.patches)) {}

  int64_t items(int /*phase*/) const override { return batch_; }
  void Run(const RunContext& /*context*/, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t image = begin; image < end; ++image) Image(image);
  }

 private:
  void Image(int64_t image) const {
    // The host checks its draws; a crop out of range must not read another image's pixels.
    const int32_t* draw = augment_ + 3 * image;
    const int64_t top = std::clamp<int64_t>(draw[0], 0, height_ - crop_height_);
    const int64_t left = std::clamp<int64_t>(draw[1], 0, width_ - crop_width_);
    const bool flip = draw[2] != 0;
    const int64_t rows = crop_height_ / patch_, columns = crop_width_ / patch_;
    const uint8_t* pixels = images_ + ((image * height_ + top) * width_ + left) * channels_;
    T* to = patches_ + image * rows * columns * patch_ * patch_ * channels_;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        for (int64_t py = 0; py < patch_; ++py) {
          const uint8_t* line = pixels + (row * patch_ + py) * width_ * channels_;
          to = PatchLine(line, column * patch_, flip, to);
        }
      }
    }
  }

  // patch_ pixels of one image line from crop column x on; flipped: the line is read from its end.
  T* PatchLine(const uint8_t* line, int64_t x, bool flip, T* to) const {
    const int64_t step = flip ? -channels_ : channels_;
    const uint8_t* pixel = line + (flip ? crop_width_ - 1 - x : x) * channels_;
    for (int64_t px = 0; px < patch_; ++px, pixel += step) {
      for (int64_t c = 0; c < channels_; ++c) *to++ = table_[pixel[c]];
    }
    return to;
  }

  const int64_t batch_, height_, width_, channels_, crop_height_, crop_width_, patch_;
  const std::array<T, 256> table_;
  const uint8_t* images_;
  const int32_t* augment_;
  T* patches_;
};

}  // namespace

CpuOpOr MakeCpuOp(const ImagesToPatchesArgs& args, CpuOpBuilder& builder) {
  if (args.patches.dtype == DType::kBf16) {
    return std::make_unique<ImagesToPatchesOp<Bf16>>(args, builder);
  }
  return std::make_unique<ImagesToPatchesOp<float>>(args, builder);
}

}  // namespace vitscale::cpu
