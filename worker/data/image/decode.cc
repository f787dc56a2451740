#include "worker/data/image/decode.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/data/image/decoders.h"

namespace vitscale {

ImageFormat Sniff(absl::string_view bytes) {
  if (absl::StartsWith(bytes, "\xff\xd8\xff")) return ImageFormat::kJpeg;
  if (absl::StartsWith(bytes, "\x89PNG\r\n\x1a\n")) return ImageFormat::kPng;
  const bool riff = absl::StartsWith(bytes, "RIFF") && bytes.size() >= 12;
  return riff && bytes.substr(8, 4) == "WEBP" ? ImageFormat::kWebp : ImageFormat::kUnknown;
}

absl::Status CheckDimensions(absl::string_view format, int64_t height, int64_t width) {
  if (height < 1 || width < 1) {
    return absl::DataLossError(absl::StrCat(format, ": ", height, "x", width, " pixels"));
  }
  if (height <= kSideMax && width <= kSideMax && height * width <= kPixelsMax) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat(format, ": ", height, "x", width,
                                                   " pixels, want at most ", kPixelsMax, " and ",
                                                   kSideMax, " a side"));
}

absl::Status DecodeImage(absl::string_view bytes, int channels, Image* image) {
  VITSCALE_CHECK(channels == 1 || channels == 3) << channels << " channels";
  if (bytes.empty()) return absl::DataLossError("the file is empty");
  switch (Sniff(bytes)) {
    case ImageFormat::kJpeg:
      return DecodeJpeg(bytes, channels, image);
    case ImageFormat::kPng:
      return DecodePng(bytes, channels, image);
    case ImageFormat::kWebp:
      return DecodeWebp(bytes, channels, image);
    case ImageFormat::kUnknown:
      break;
  }
  return absl::DataLossError(absl::StrCat("neither JPEG, PNG nor WebP by its first bytes (",
                                          bytes.size(), " bytes long)"));
}

}  // namespace vitscale
