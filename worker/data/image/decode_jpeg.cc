// JPEG by libjpeg-turbo's classic interface: TurboJPEG does not tell whether a CMYK file is
// Adobe's, nor which warning it met.
//
// Errors of the library leave by longjmp. Functions that call setjmp have no objects with
// destructors, and what they allocate belongs to the library or to the caller.

// In this order: each needs what stands above it.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include <csetjmp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/data/image/decoders.h"

namespace vitscale {
namespace {

// A progressive file of a few kilobytes may hold thousands of passes over millions of pixels. Real
// ones have about ten.
constexpr int kScansMax = 200;

struct Decoder {
  jpeg_decompress_struct info = {};
  jpeg_error_mgr errors = {};
  jpeg_progress_mgr progress = {};
  jmp_buf failed;
  bool truncated = false;
  bool too_many_scans = false;
};

Decoder& Of(j_common_ptr info) { return *static_cast<Decoder*>(info->client_data); }

void OnError(j_common_ptr info) { longjmp(Of(info).failed, 1); }
void OnMessage(j_common_ptr) {}
void OnWarning(j_common_ptr info, int level) {
  if (level >= 0) return;  // a trace
  ++info->err->num_warnings;
  if (info->err->msg_code != JWRN_JPEG_EOF) return;
  Of(info).truncated = true;
  longjmp(Of(info).failed, 1);
}
void OnProgress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kScansMax) return;
  Of(info).too_many_scans = true;
  longjmp(Of(info).failed, 1);
}

void ChooseColours(jpeg_decompress_struct& info, int channels) {
  const bool four = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = four ? JCS_CMYK : channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  info.dct_method = JDCT_IFAST;
  info.do_fancy_upsampling = TRUE;
}

bool ReadHeader(Decoder& d, absl::string_view bytes, int channels) {
  if (setjmp(d.failed) != 0) return false;
  jpeg_create_decompress(&d.info);
  d.progress.progress_monitor = OnProgress;
  d.info.progress = &d.progress;
  jpeg_mem_src(&d.info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&d.info, TRUE);
  ChooseColours(d.info, channels);
  return true;
}

// `row`: room for one row of four channels, used for CMYK only.
using PutRow = void (*)(const Decoder&, const uint8_t* row, uint8_t* to);
bool ReadRows(Decoder& d, uint8_t* pixels, int64_t row_bytes, uint8_t* row, PutRow put) {
  if (setjmp(d.failed) != 0) return false;
  jpeg_start_decompress(&d.info);
  while (d.info.output_scanline < d.info.output_height) {
    uint8_t* to = pixels + d.info.output_scanline * row_bytes;
    uint8_t* into = put == nullptr ? to : row;
    if (jpeg_read_scanlines(&d.info, &into, 1) == 1 && put != nullptr) put(d, row, to);
  }
  jpeg_finish_decompress(&d.info);  // reads on to the end, so that a missing one is seen
  return true;
}

template <int kChannels>
void PutCmyk(const Decoder& d, const uint8_t* row, uint8_t* to) {
  const int flip = d.info.saw_Adobe_marker ? 0 : 255;  // 255 - v is 255 ^ v
  for (JDIMENSION x = 0; x < d.info.output_width; ++x, row += 4) {
    const int k = row[3] ^ flip;
    const int r = (row[0] ^ flip) * k / 255, g = (row[1] ^ flip) * k / 255,
              b = (row[2] ^ flip) * k / 255;
    if (kChannels == 1) {
      *to++ = Luma(r, g, b);
    } else {
      *to++ = static_cast<uint8_t>(r);
      *to++ = static_cast<uint8_t>(g);
      *to++ = static_cast<uint8_t>(b);
    }
  }
}

absl::Status Failure(Decoder& d) {
  if (d.truncated) return absl::DataLossError("JPEG: the file ends before the image does");
  if (d.too_many_scans) {
    return absl::DataLossError(absl::StrCat("JPEG: more than ", kScansMax, " scans"));
  }
  char message[JMSG_LENGTH_MAX] = "";
  d.errors.format_message(reinterpret_cast<j_common_ptr>(&d.info), message);
  const std::string text = absl::StrCat("JPEG: ", message);
  return d.errors.msg_code == JERR_BAD_PRECISION ? absl::UnimplementedError(text)
                                                 : absl::DataLossError(text);
}

absl::Status Decode(Decoder& d, absl::string_view bytes, int channels, Image* image) {
  if (!ReadHeader(d, bytes, channels)) return Failure(d);
  const int height = static_cast<int>(d.info.image_height);
  const int width = static_cast<int>(d.info.image_width);
  VITSCALE_RETURN_IF_ERROR(CheckDimensions("JPEG", height, width));
  image->Resize(height, width, channels);
  std::vector<uint8_t> row;
  PutRow put = nullptr;
  if (d.info.out_color_space == JCS_CMYK) {
    row.resize(int64_t{4} * width);
    put = channels == 1 ? PutCmyk<1> : PutCmyk<3>;
  }
  if (!ReadRows(d, image->pixels(), image->row_bytes(), row.data(), put)) return Failure(d);
  return absl::OkStatus();
}

}  // namespace

absl::Status DecodeJpeg(absl::string_view bytes, int channels, Image* image) {
  Decoder d;
  d.info.err = jpeg_std_error(&d.errors);
  d.errors.error_exit = OnError;
  d.errors.output_message = OnMessage;
  d.errors.emit_message = OnWarning;
  d.info.client_data = &d;  // kept by jpeg_create_decompress
  const absl::Status status = Decode(d, bytes, channels, image);
  jpeg_destroy_decompress(&d.info);
  return status;
}

}  // namespace vitscale
