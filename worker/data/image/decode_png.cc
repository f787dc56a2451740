// PNG by libpng. Errors of the library leave by longjmp: functions that call setjmp have no objects
// with destructors.

#include <png.h>

#include <csetjmp>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/data/image/decode.h"
#include "worker/data/image/decoders.h"

namespace vitscale {
namespace {

struct Decoder {
  png_structp png = nullptr;
  png_infop info = nullptr;
  absl::string_view rest;  // not read yet
  char message[128] = "damaged";
};

void OnError(png_structp png, png_const_charp message) {
  Decoder& d = *static_cast<Decoder*>(png_get_error_ptr(png));
  std::strncpy(d.message, message, sizeof(d.message) - 1);
  png_longjmp(png, 1);
}
void OnWarning(png_structp, png_const_charp) {}
void Read(png_structp png, png_bytep to, size_t count) {
  Decoder& d = *static_cast<Decoder*>(png_get_io_ptr(png));
  if (d.rest.size() < count) png_error(png, "the file ends before the image does");
  std::memcpy(to, d.rest.data(), count);
  d.rest.remove_prefix(count);
}

bool ReadHeader(Decoder& d) {
  if (setjmp(png_jmpbuf(d.png)) != 0) return false;
  png_set_user_limits(d.png, kSideMax, kSideMax);
  png_set_chunk_cache_max(d.png, 64);
  png_set_chunk_malloc_max(d.png, 8 << 20);
  png_read_info(d.png, d.info);
  return true;
}

// Whatever the file holds becomes 8 bits of gray or RGB without alpha. Colour stays colour here:
// luma of it is taken afterwards, since libpng's own conversion linearises by gAMA first.
bool AskForBytes(Decoder& d) {
  if (setjmp(png_jmpbuf(d.png)) != 0) return false;
  const int type = png_get_color_type(d.png, d.info);
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(d.png);
  if (type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(d.png);
  if (png_get_bit_depth(d.png, d.info) == 16) png_set_strip_16(d.png);
  png_set_strip_alpha(d.png);  // of any type: a palette with tRNS would become RGBA
  png_set_interlace_handling(d.png);
  png_read_update_info(d.png, d.info);
  return true;
}

bool ReadPixels(Decoder& d, png_bytep* rows) {
  if (setjmp(png_jmpbuf(d.png)) != 0) return false;
  png_read_image(d.png, rows);
  png_read_end(d.png, nullptr);  // checks that the end is there
  return true;
}

void GrayOf(const uint8_t* from, int64_t pixels, uint8_t* to) {
  for (int64_t i = 0; i < pixels; ++i, from += 3) to[i] = Luma(from[0], from[1], from[2]);
}
// Back to front, in place: `pixels` has room for three times as many.
void SpreadGray(uint8_t* pixels, int64_t count) {
  for (int64_t i = count - 1; i >= 0; --i) {
    pixels[3 * i] = pixels[3 * i + 1] = pixels[3 * i + 2] = pixels[i];
  }
}

absl::Status Failure(const Decoder& d) {
  return absl::DataLossError(absl::StrCat("PNG: ", d.message));
}

absl::Status Decode(Decoder& d, int channels, Image* image) {
  if (!ReadHeader(d)) return Failure(d);
  const int64_t height = png_get_image_height(d.png, d.info);
  const int64_t width = png_get_image_width(d.png, d.info);
  VITSCALE_RETURN_IF_ERROR(CheckDimensions("PNG", height, width));
  if (!AskForBytes(d)) return Failure(d);
  const int there = png_get_channels(d.png, d.info);
  if (there != 1 && there != 3) {
    return absl::DataLossError(absl::StrCat("PNG: ", there, " channels after conversion"));
  }
  image->Resize(height, width, channels);
  std::vector<uint8_t> colours;  // only if they are to become gray
  uint8_t* to = image->pixels();
  if (there > channels) {
    colours.resize(height * width * there);
    to = colours.data();
  }
  std::vector<png_bytep> rows(height);
  for (int64_t y = 0; y < height; ++y) rows[y] = to + y * width * there;
  if (!ReadPixels(d, rows.data())) return Failure(d);
  if (there > channels) GrayOf(to, height * width, image->pixels());
  if (there < channels) SpreadGray(to, height * width);
  return absl::OkStatus();
}

}  // namespace

absl::Status DecodePng(absl::string_view bytes, int channels, Image* image) {
  Decoder d;
  d.rest = bytes;
  d.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &d, OnError, OnWarning);
  if (d.png == nullptr) return absl::ResourceExhaustedError("PNG: no memory for the decoder");
  d.info = png_create_info_struct(d.png);
  absl::Status status = absl::ResourceExhaustedError("PNG: no memory for the decoder");
  if (d.info != nullptr) {
    png_set_read_fn(d.png, &d, Read);
    status = Decode(d, channels, image);
  }
  png_destroy_read_struct(&d.png, &d.info, nullptr);
  return status;
}

}  // namespace vitscale
