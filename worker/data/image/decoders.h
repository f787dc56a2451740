// One decoder per format; decode.h says what they do. Internal to this folder.

#ifndef WORKER_DATA_IMAGE_DECODERS_H_
#define WORKER_DATA_IMAGE_DECODERS_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/data/image/image.h"

namespace vitscale {

absl::Status DecodeJpeg(absl::string_view bytes, int channels, Image* image);
absl::Status DecodePng(absl::string_view bytes, int channels, Image* image);
absl::Status DecodeWebp(absl::string_view bytes, int channels, Image* image);

// RESOURCE_EXHAUSTED beyond the limits of decode.h; DATA_LOSS for a side of 0.
absl::Status CheckDimensions(absl::string_view format, int64_t height, int64_t width);

// Rec. 601 luma in 16 bits of fraction, rounded to nearest.
inline uint8_t Luma(int r, int g, int b) {
  return static_cast<uint8_t>((19595 * r + 38470 * g + 7471 * b + 32768) >> 16);
}

}  // namespace vitscale

#endif  // WORKER_DATA_IMAGE_DECODERS_H_
