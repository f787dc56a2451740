// Writes JPEG files of kinds that Pillow does not write, for tests of the decoder.

#ifndef TESTS_WORKER_DATA_JPEG_WRITER_H_
#define TESTS_WORKER_DATA_JPEG_WRITER_H_

// In this order: jpeglib.h needs cstdio.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
// clang-format on

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace vitscale {

// `rgb`: [height, width, 3]. `choose` sets what is special once the defaults are there. Errors of
// the library end the test program.
inline std::string WriteJpeg(const std::vector<uint8_t>& rgb, int height, int width,
                             const std::function<void(jpeg_compress_struct&)>& choose) {
  jpeg_compress_struct info = {};
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;  // NOLINT: the library's type
  jpeg_mem_dest(&info, &bytes, &size);
  info.image_width = width, info.image_height = height;
  info.input_components = 3, info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 95, TRUE);
  choose(info);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<uint8_t*>(rgb.data() + info.next_scanline * width * 3);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  const std::string result(reinterpret_cast<const char*>(bytes), size);
  free(bytes);
  return result;
}

}  // namespace vitscale

#endif  // TESTS_WORKER_DATA_JPEG_WRITER_H_
