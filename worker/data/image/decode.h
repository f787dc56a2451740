// Bytes of a JPEG, PNG or WebP file to pixels. What the bytes are is told by how they begin, never
// by the file's name.
//
// Reference: TensorFlow 2.21 tf.io.decode_image(bytes, channels, expand_animations=False), which
// big_vision's pp op `decode` calls (pp/ops_image.py); tests/golden/preprocess_golden.py holds us
// to it. What that means:
//
//   alpha            dropped; the colour that lies under a transparent pixel is kept as it is
//   PNG palette      its colours; tRNS is dropped like alpha
//   PNG, 16 bit      the high byte (value >> 8); 1, 2, 4 bit gray: spread over 0 to 255
//   JPEG             DCT "integer fast", smooth chroma upsampling: TensorFlow's default. Within 5
//   of
//                    the accurate DCT.
//   CMYK, YCCK JPEG  r = c * k / 255 of an Adobe file (stored inverted), else
//                    (255 - c) * (255 - k) / 255, and so on
//   EXIF orientation, gamma and colour profiles are not applied
//
// With channels 1 colour becomes Rec. 601 luma: the Y of a JPEG, 0.299 r + 0.587 g + 0.114 b
// rounded to nearest elsewhere. There TensorFlow differs: it refuses CMYK and WebP, and its PNG
// reader swaps the weights of green and blue (tensorflow/core/lib/png/png_io.cc), which we do not
// follow.

#ifndef WORKER_DATA_IMAGE_DECODE_H_
#define WORKER_DATA_IMAGE_DECODE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/data/image/image.h"

namespace vitscale {

// Larger images are refused before memory is taken: a file of a few kilobytes can promise 4
// gigapixels. The largest of ImageNet has 61 million.
inline constexpr int64_t kPixelsMax = int64_t{1} << 26;
inline constexpr int kSideMax = 65535;

enum class ImageFormat { kUnknown, kJpeg, kPng, kWebp };
// Of how many bytes at the start of a file Sniff wants to see.
inline constexpr int kSniffBytes = 12;
ImageFormat Sniff(absl::string_view bytes);

// `channels`: 1 or 3. Errors: DATA_LOSS for what cannot be decoded whole (truncated, damaged, none
// of the formats, an animated WebP, empty), RESOURCE_EXHAUSTED for more than kPixelsMax,
// UNIMPLEMENTED for a JPEG of 12 bits. `image` is then unspecified. Damage that a JPEG decoder can
// pass over (extraneous bytes, a bad code inside of the data) is none, as for TensorFlow; a missing
// end is.
absl::Status DecodeImage(absl::string_view bytes, int channels, Image* image);

}  // namespace vitscale

#endif  // WORKER_DATA_IMAGE_DECODE_H_
