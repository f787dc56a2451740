#include "worker/bench/jpeg_folder.h"

// In this order: jpeglib.h needs cstdio.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "kernels/base/philox.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int kQuality = 90;
constexpr int kNoise = 12;  // grey values from end to end

// Waves of its own direction and length in each channel.
std::vector<uint8_t> Picture(int64_t index, int width, int height) {
  Draws draws(0, DrawPurpose::kBenchmark, 1, index);
  struct Wave {
    double x, y, phase;
  } waves[3];
  for (Wave& wave : waves) {
    wave = {0.002 * static_cast<double>(draws.Below(40)),
            0.002 * static_cast<double>(draws.Below(40)),
            0.01 * static_cast<double>(draws.Below(628))};
  }
  std::vector<uint8_t> rgb;
  rgb.reserve(static_cast<size_t>(width) * height * 3);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const int noise = static_cast<int>(draws.Below(kNoise)) - kNoise / 2;
      for (const Wave& wave : waves) {
        const double value = 128 + 90 * std::sin(wave.x * x + wave.y * y + wave.phase);
        rgb.push_back(static_cast<uint8_t>(std::clamp(static_cast<int>(value) + noise, 0, 255)));
      }
    }
  }
  return rgb;
}

// The library ends the program when it has no memory; nothing else can go wrong here.
std::string Encode(std::vector<uint8_t> rgb, int width, int height) {
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
  jpeg_set_quality(&info, kQuality, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = rgb.data() + size_t{info.next_scanline} * width * 3;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  const std::string file(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  return file;
}

absl::Status WriteFile(FileSystem& fs, const std::string& path, const std::string& bytes) {
  VITSCALE_ASSIGN_OR_RETURN(const auto file, fs.CreateExclusive(path));
  VITSCALE_RETURN_IF_ERROR(file->Append(bytes));
  return file->Close();
}

}  // namespace

absl::StatusOr<int64_t> WriteJpegFolder(const std::string& directory, int64_t images, int width,
                                        int height) {
  FileSystem& fs = PosixFileSystem();
  constexpr const char* kClasses[] = {"even", "odd"};
  for (const char* name : kClasses) {
    VITSCALE_RETURN_IF_ERROR(fs.MakeDirectory(JoinPath(directory, name)));
  }
  int64_t bytes = 0;
  for (int64_t i = 0; i < images; ++i) {
    const std::string file = Encode(Picture(i, width, height), width, height);
    const std::string folder = JoinPath(directory, kClasses[i % 2]);
    VITSCALE_RETURN_IF_ERROR(WriteFile(fs, JoinPath(folder, absl::StrFormat("%06d.jpg", i)), file));
    bytes += static_cast<int64_t>(file.size());
  }
  return bytes;
}

}  // namespace vitscale
