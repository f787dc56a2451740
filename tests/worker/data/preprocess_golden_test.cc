// Pixels against TensorFlow's, which big_vision calls: tests/golden/preprocess_golden.py.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "tests/golden/golden.h"
#include "tests/kernels/kernels_test_util.h"
#include "tests/status_matchers.h"
#include "worker/data/image/crop.h"
#include "worker/data/image/decode.h"
#include "worker/data/image/resize.h"
#include "worker/data/preprocess.h"

namespace vitscale {
namespace {

using golden::ErrorTable;
using golden::GoldenFile;

const GoldenFile& Golden() {
  static const auto* file = new GoldenFile("preprocess");
  return *file;
}

std::vector<uint8_t> Bytes(const std::string& tensor) {
  const std::vector<int64_t> values = Golden().Integers(tensor);
  return {values.begin(), values.end()};
}

struct Stored {
  explicit Stored(const std::string& tensor) : pixels(Bytes(tensor)) {
    const Shape shape = Golden().ShapeOf(tensor);
    view = {pixels.data(), static_cast<int>(shape[0]), static_cast<int>(shape[1]),
            static_cast<int>(shape[2]), shape[1] * shape[2]};
  }
  std::vector<uint8_t> pixels;
  ImageView view;
};

// Largest difference of two pixels.
int Compare(absl::Span<const uint8_t> are, const std::vector<uint8_t>& want) {
  EXPECT_EQ(are.size(), want.size());
  if (are.size() != want.size()) return 256;
  int largest = 0;
  for (size_t i = 0; i < want.size(); ++i) largest = std::max(largest, std::abs(are[i] - want[i]));
  return largest;
}

// The decoders are the same libraries in other versions. JPEG with the same DCT and upsampling, PNG
// and WebP are defined to the bit: no difference at all.
TEST(PreprocessGoldenTest, DecodedFilesHaveTensorFlowsPixels) {
  ErrorTable table;
  int files = 0;
  for (const std::string& name : Golden().Names()) {
    if (!absl::StartsWith(name, "file.")) continue;
    ++files;
    const std::vector<uint8_t> bytes = Bytes(name);
    const std::string file = name.substr(5);
    for (const int channels : {1, 3}) {
      const std::string tensor = absl::StrCat("decoded.", file, ".", channels);
      Image image;
      ASSERT_THAT(DecodeImage({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, channels,
                              &image),
                  IsOk())
          << file;
      const Stored want(tensor);
      ASSERT_EQ(image.height(), want.view.height) << file;
      ASSERT_EQ(image.width(), want.view.width) << file;
      const int largest = Compare({image.pixels(), want.pixels.size()}, want.pixels);
      const std::string kind = file.substr(0, file.find('_'));
      table.Expect(absl::StrCat("decode ", kind), largest, 0, "of 255", tensor);
    }
  }
  EXPECT_EQ(files, 31);
}

TEST(PreprocessGoldenTest, ResizedImagesHaveTensorFlowsPixels) {
  ErrorTable table;
  int cases = 0;
  for (const std::string& name : Golden().Names()) {
    if (!absl::StartsWith(name, "resized.")) continue;
    const std::vector<std::string> parts = absl::StrSplit(name, '.');
    const Stored image("image." + parts[2]), want(name);
    std::vector<uint8_t> out(want.pixels.size());
    const bool area = parts[1] == "area";
    (area ? ResizeArea : ResizeBilinear)(image.view, want.view.height, want.view.width,
                                         absl::MakeSpan(out));
    const int largest = Compare(out, want.pixels);
    // Both do TensorFlow's arithmetic in its order, so that what is cut is equal.
    table.Expect(absl::StrCat("resize ", parts[1]), largest, 0, "of 255", name);
    ++cases;
  }
  EXPECT_EQ(cases, 36);
}

TEST(PreprocessGoldenTest, ResizeSmallRoundsSidesAsTensorFlow) {
  const std::vector<int64_t> rows = Golden().Integers("small_sides");
  for (size_t i = 0; i < rows.size(); i += 5) {
    const Sides sides = SmallSides(rows[i], rows[i + 1], rows[i + 2]);
    EXPECT_EQ(sides.height, rows[i + 3]) << rows[i] << "x" << rows[i + 1];
    EXPECT_EQ(sides.width, rows[i + 4]) << rows[i] << "x" << rows[i + 1];
  }
}

TEST(PreprocessGoldenTest, ABoxResizedHasTensorFlowsPixels) {
  ErrorTable table;
  const Stored image("image.rgb");
  const std::vector<int64_t> boxes = Golden().Integers("boxes");
  for (size_t i = 0; i < boxes.size() / 4; ++i) {
    const int64_t* box = boxes.data() + 4 * i;
    std::vector<uint8_t> out(28 * 28 * 3);
    ResizeBilinear(Cut(image.view, {static_cast<int>(box[0]), static_cast<int>(box[1]),
                                    static_cast<int>(box[2]), static_cast<int>(box[3])}),
                   28, 28, absl::MakeSpan(out));
    const std::string name = absl::StrCat("boxed.", i);
    table.Expect("inception_crop, given the box", Compare(out, Bytes(name)), 0, "of 255", name);
  }
}

TEST(PreprocessGoldenTest, EvaluationPipelinesHaveBigVisionsPixels) {
  ErrorTable table;
  const Stored image("image.rgb");
  for (const auto& [name, kind] :
       {std::pair{"pipeline.resize_small_32_central_crop_28", ImageOpKind::kResizeSmall},
        {"pipeline.resize_32_central_crop_28", ImageOpKind::kResize}}) {
    std::vector<uint8_t> out(28 * 28 * 3);
    Draws draws(0, DrawPurpose::kTest, 0, 0);
    ASSERT_THAT(ApplyImageOps({{kind, 32, 32}, {ImageOpKind::kCentralCrop, 28, 28}}, image.view,
                              draws, 28, 28, absl::MakeSpan(out)),
                IsOk());
    table.Expect("pipeline", Compare(out, Bytes(name)), 0, "of 255", name);
  }
}

// The device rounds once; TensorFlow rounds the quotient, the product and the sum: with a range of
// up to 3.25 that is 3.25 * 2^-25 + 2^-23 + 2^-23 + 2^-24 and our 2^-24, below 2^-21.
TEST(PreprocessGoldenTest, ValueRangeOfTheDeviceIsTensorFlows) {
  ErrorTable table;
  const auto variants = AllVariants();
  const auto variant = std::find_if(variants.begin(), variants.end(),
                                    [](const Variant& v) { return v.dtype == DType::kF32; });
  ASSERT_NE(variant, variants.end());
  Doubles pixels(256);
  std::iota(pixels.begin(), pixels.end(), 0);
  for (const auto& [low, high, name] : {std::tuple{-1.0f, 1.0f, "value_range.-1.0.1.0"},
                                        {0.0f, 1.0f, "value_range.0.0.1.0"},
                                        {-2.5f, 0.75f, "value_range.-2.5.0.75"}}) {
    OpBench bench(*variant);
    ImagesToPatchesArgs args;  // one patch of 16 x 16: pixels in their order
    args.images = bench.Input("images", DType::kU8, {1, 16, 16, 1}, pixels, Arena::kInput);
    args.augment = bench.Input("augment", DType::kI32, {1, 3}, {0, 0, 0}, Arena::kInput);
    args.crop_height = args.crop_width = args.patch = 16;
    args.range_min = low, args.range_max = high;
    args.patches = bench.Output("patches", DType::kF32, {1, 256});
    ASSERT_THAT(bench.Run(args), IsOk());
    const Doubles are = bench.Values(args.patches), want = Golden().Values(name);
    double largest = 0;
    for (int i = 0; i < 256; ++i) largest = std::max(largest, std::abs(are[i] - want[i]));
    table.Expect("value_range", largest, 0x1p-21, "", name);
  }
}

// Kolmogorov and Smirnov: with 40,000 boxes on either side the largest distance of two samples of
// one distribution is above 1.95 * sqrt(2 / 40000) = 0.0138 once in a thousand times; the quantiles
// of the file add 1 / 1000. Draws are counters, so the outcome is always the same.
TEST(PreprocessGoldenTest, InceptionBoxesAreDistributedAsTensorFlows) {
  constexpr int kBoxes = 40'000;
  constexpr double kBound = 0.0138 + 0.001;
  ErrorTable table;
  struct Case {
    int height, width, low, high;
  };
  for (const Case& c : {Case{375, 500, 5, 100}, {100, 40, 5, 100}, {64, 64, 25, 60}}) {
    std::vector<double> drawn[4];
    for (int i = 0; i < kBoxes; ++i) {
      Draws draws(7, DrawPurpose::kCrop, 0, i);
      const Box box = InceptionBox(c.height, c.width, {c.low / 100.0, c.high / 100.0}, draws);
      const int values[] = {box.top, box.left, box.height, box.width};
      for (int v = 0; v < 4; ++v) drawn[v].push_back(values[v]);
    }
    const char* const names[] = {"top", "left", "height", "width"};
    for (int v = 0; v < 4; ++v) {
      const std::string name = absl::StrCat("inception.", c.height, "x", c.width, "x", c.low, "x",
                                            c.high, ".", names[v]);
      const std::vector<double> want = Golden().Values(name);
      std::sort(drawn[v].begin(), drawn[v].end());
      double distance = 0;  // of the shares of values up to x, for every whole x
      for (int x = 0; x <= std::max(c.height, c.width); ++x) {
        const auto share = [x](const std::vector<double>& sorted) {
          return static_cast<double>(std::upper_bound(sorted.begin(), sorted.end(), x) -
                                     sorted.begin()) /
                 static_cast<double>(sorted.size());
        };
        distance = std::max(distance, std::abs(share(drawn[v]) - share(want)));
      }
      table.Expect("inception_crop, distance of distributions", distance, kBound, "", name);
    }
  }
}

}  // namespace
}  // namespace vitscale
