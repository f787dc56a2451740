// WebP by libwebp, lossy and lossless. Alpha is dropped. Animations are refused: a class label is
// for one picture.

#include <webp/decode.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/data/image/decoders.h"

namespace vitscale {
namespace {

const char* Reason(VP8StatusCode code) {
  switch (code) {
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "a feature that libwebp does not support";
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
      return "the file ends before the image does";
    default:
      return "damaged";
  }
}

}  // namespace

absl::Status DecodeWebp(absl::string_view bytes, int channels, Image* image) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  WebPDecoderConfig config;
  VITSCALE_CHECK(WebPInitDecoderConfig(&config) != 0) << "libwebp of another version";
  const auto fails = [](VP8StatusCode code) {
    return absl::DataLossError(absl::StrCat("WebP: ", Reason(code)));
  };
  VP8StatusCode code = WebPGetFeatures(data, bytes.size(), &config.input);
  if (code != VP8_STATUS_OK) return fails(code);
  if (config.input.has_animation != 0) {
    return absl::DataLossError("WebP: an animation, want a still image");
  }
  const int height = config.input.height, width = config.input.width;
  VITSCALE_RETURN_IF_ERROR(CheckDimensions("WebP", height, width));
  image->Resize(height, width, channels);
  std::vector<uint8_t> colours(channels == 1 ? int64_t{3} * height * width : 0);
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {channels == 1 ? colours.data() : image->pixels(), 3 * width,
                          size_t{3} * height * width};
  code = WebPDecode(data, bytes.size(), &config);
  if (code != VP8_STATUS_OK) return fails(code);
  for (size_t i = 0; i < colours.size() / 3; ++i) {
    image->pixels()[i] = Luma(colours[3 * i], colours[3 * i + 1], colours[3 * i + 2]);
  }
  return absl::OkStatus();
}

}  // namespace vitscale
