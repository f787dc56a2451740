// Files from anywhere: torn, hostile, of the wrong kind. Never a crash, always a named reason.

#include "worker/data/image/decode.h"

#include <zlib.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "kernels/base/random.h"
#include "tests/golden/golden.h"
#include "tests/status_matchers.h"
#include "tests/worker/data/jpeg_writer.h"

namespace vitscale {
namespace {

using testing::HasSubstr;

const golden::GoldenFile& Golden() {
  static const auto* file = new golden::GoldenFile("preprocess");
  return *file;
}
std::string File(const std::string& name) {
  const std::vector<int64_t> bytes = Golden().Integers("file." + name);
  return {bytes.begin(), bytes.end()};
}
std::vector<std::string> AllFiles() {
  std::vector<std::string> names;
  for (const std::string& name : Golden().Names()) {
    if (absl::StartsWith(name, "file.")) names.push_back(name.substr(5));
  }
  return names;
}
absl::Status Decode(const std::string& bytes, int channels = 3) {
  Image image;
  return DecodeImage(bytes, channels, &image);
}

TEST(DecodeTest, FilesAreToldByTheirFirstBytes) {
  EXPECT_EQ(Sniff(File("jpeg_420")), ImageFormat::kJpeg);
  EXPECT_EQ(Sniff(File("png_rgb")), ImageFormat::kPng);
  EXPECT_EQ(Sniff(File("webp_lossy")), ImageFormat::kWebp);
  EXPECT_EQ(Sniff(std::string("RIFF\0\0\0\0WAVE", 12)), ImageFormat::kUnknown);
  EXPECT_EQ(Sniff("RIFF"), ImageFormat::kUnknown);
  for (const char* other : {"<!DOCTYPE html><html>404</html>", "GIF89a", "BM", "x", "\xff\xd8"}) {
    EXPECT_THAT(Decode(other),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("neither JPEG, PNG nor WebP")))
        << other;
  }
  EXPECT_THAT(Decode(""), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("empty")));
}

TEST(DecodeTest, AFileCutAnywhereIsAnError) {
  for (const std::string& name : AllFiles()) {
    const std::string whole = File(name);
    ASSERT_THAT(Decode(whole), IsOk()) << name;
    for (size_t bytes = 0; bytes < whole.size(); bytes += 1 + whole.size() / 60) {
      EXPECT_THAT(Decode(whole.substr(0, bytes)), StatusIs(absl::StatusCode::kDataLoss))
          << name << " cut to " << bytes << " of " << whole.size() << " bytes";
    }
    EXPECT_THAT(Decode(whole.substr(0, whole.size() - 2)), StatusIs(absl::StatusCode::kDataLoss))
        << name;
  }
}

TEST(DecodeTest, BytesAfterTheImageDoNotMatter) {
  for (const char* name : {"jpeg_420", "png_rgb"}) {
    EXPECT_THAT(Decode(File(name) + std::string(100, '\0')), IsOk()) << name;
  }
}

TEST(DecodeTest, DamageNeverCrashes) {
  const auto random = SeededRandom(1);
  for (const std::string& name : AllFiles()) {
    const std::string whole = File(name);
    for (int i = 0; i < 60; ++i) {
      std::string damaged = whole;
      for (int flips = 1 + random->Next() % 4; flips > 0; --flips) {
        damaged[random->Next() % damaged.size()] ^= 1 << random->Next() % 8;
      }
      const absl::Status status = Decode(damaged, i % 2 == 0 ? 1 : 3);
      EXPECT_TRUE(status.ok() || absl::IsDataLoss(status) || absl::IsResourceExhausted(status) ||
                  absl::IsUnimplemented(status))
          << name << ": " << status;
    }
  }
}

void PutBigEndian(std::string* bytes, size_t at, uint32_t value, int width) {
  for (int i = 0; i < width; ++i)
    (*bytes)[at + i] = static_cast<char>(value >> 8 * (width - 1 - i));
}

// What a header promises is looked at before memory is taken for it.
TEST(DecodeTest, HeadersThatPromiseTooMuchAreRefused) {
  std::string jpeg = File("jpeg_444");
  const size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  PutBigEndian(&jpeg, frame + 5, 60000, 2);
  PutBigEndian(&jpeg, frame + 7, 60001, 2);
  EXPECT_THAT(Decode(jpeg), StatusIs(absl::StatusCode::kResourceExhausted,
                                     HasSubstr("JPEG: 60000x60001 pixels, want at most 67108864")));
  std::string png = File("png_rgb");  // width and height stand behind signature, length and "IHDR"
  PutBigEndian(&png, 16, 60000, 4);
  PutBigEndian(&png, 20, 60000, 4);
  PutBigEndian(&png, 29, crc32(0, reinterpret_cast<const Bytef*>(png.data()) + 12, 17), 4);
  EXPECT_THAT(Decode(png),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("PNG: 60000x")));
  std::string webp = File("webp_lossy");
  const size_t start = webp.find("\x9d\x01\x2a");
  ASSERT_NE(start, std::string::npos);
  webp.replace(start + 3, 4, "\xff\x3f\xff\x3f");  // 16383 x 16383, little-endian
  EXPECT_THAT(Decode(webp), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("WebP")));
}

TEST(DecodeTest, DamageInsideAJpegThatADecoderPassesOverIsNone) {
  std::string jpeg = File("jpeg_restart");
  const size_t restart = jpeg.find("\xff\xd0");
  ASSERT_NE(restart, std::string::npos);
  jpeg.insert(restart, "\x12\x34\x56");  // "extraneous bytes before marker"
  EXPECT_THAT(Decode(jpeg), IsOk());
}

// What hardware decoders refuse. A smooth picture at quality 95 comes back within a few levels;
// 4:1:1 keeps one colour for four pixels of a row.
TEST(DecodeTest, RareKindsOfJpegAreDecodedToo) {
  constexpr int kHeight = 40, kWidth = 56;
  std::vector<uint8_t> rgb;
  for (int i = 0; i < kHeight * kWidth; ++i) {
    for (const int value : {i % kWidth * 4, i / kWidth * 6, 128}) rgb.push_back(value);
  }
  const std::pair<const char*, std::function<void(jpeg_compress_struct&)>> kinds[] = {
      {"arithmetic", [](jpeg_compress_struct& info) { info.arith_code = TRUE; }},
      {"arithmetic, progressive",
       [](jpeg_compress_struct& info) {
         info.arith_code = TRUE;
         jpeg_simple_progression(&info);
       }},
      {"4:1:1", [](jpeg_compress_struct& info) { info.comp_info[0].h_samp_factor = 4; }},
      {"4:4:0",
       [](jpeg_compress_struct& info) {
         info.comp_info[0].h_samp_factor = 1, info.comp_info[0].v_samp_factor = 2;
       }},
      {"restart after every block", [](jpeg_compress_struct& info) { info.restart_interval = 1; }},
      {"RGB, no luma", [](jpeg_compress_struct& info) { jpeg_set_colorspace(&info, JCS_RGB); }}};
  for (const auto& [name, choose] : kinds) {
    const std::string bytes = WriteJpeg(rgb, kHeight, kWidth, choose);
    Image image, gray;
    ASSERT_THAT(DecodeImage(bytes, 3, &image), IsOk()) << name;
    ASSERT_THAT(DecodeImage(bytes, 1, &gray), IsOk()) << name;
    int largest = 0;
    for (size_t i = 0; i < rgb.size(); ++i) {
      largest = std::max(largest, std::abs(image.pixels()[i] - rgb[i]));
    }
    EXPECT_LE(largest, 12) << name;
  }
}

TEST(DecodeTest, AJpegOfTwelveBitsIsNamed) {
  std::string jpeg = File("jpeg_444");
  jpeg[jpeg.find("\xff\xc0") + 4] = 12;
  EXPECT_THAT(Decode(jpeg), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("precision 12")));
}

TEST(DecodeTest, AJpegOfEndlessScansIsCutShort) {
  std::string jpeg = File("jpeg_progressive");
  const size_t scan = jpeg.rfind("\xff\xda"), end = jpeg.rfind("\xff\xd9");
  ASSERT_LT(scan, end);
  const std::string last = jpeg.substr(scan, end - scan);
  for (int i = 0; i < 300; ++i) jpeg.insert(scan, last);
  EXPECT_THAT(Decode(jpeg),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("more than 200 scans")));
}

TEST(ImageTest, AHugeBufferIsGivenBack) {
  Image image;
  image.Resize(100, 100, 3);
  image.ReleaseAbove(30000);
  EXPECT_EQ(image.height(), 100);
  image.ReleaseAbove(29999);
  EXPECT_EQ(image.height(), 0);
}

}  // namespace
}  // namespace vitscale
