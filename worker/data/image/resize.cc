#include "worker/data/image/resize.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/base/status.h"

namespace vitscale {
namespace {

// ---- bilinear ----------------------------------------------------------------

struct Tap {
  int low = 0, high = 0;
  float share = 0;  // of `high`
};

std::vector<Tap> Taps(int in, int out) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  std::vector<Tap> taps(out);
  for (int i = 0; i < out; ++i) {
    const float at = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
    const float floor = std::floor(at);
    taps[i] = {std::max(static_cast<int>(floor), 0),
               std::min(static_cast<int>(std::ceil(at)), in - 1), at - floor};
  }
  return taps;
}

// One input row, stretched to `to.size()` values.
template <int kChannels>
void StretchRow(const uint8_t* row, const std::vector<Tap>& taps, std::vector<float>& to) {
  float* out = to.data();
  for (const Tap& tap : taps) {
    const uint8_t* low = row + tap.low * kChannels;
    const uint8_t* high = row + tap.high * kChannels;
    for (int c = 0; c < kChannels; ++c) {
      const float value = low[c];
      *out++ = value + (static_cast<float>(high[c]) - value) * tap.share;
    }
  }
}

template <int kChannels>
void Bilinear(const ImageView& image, int height, int width, uint8_t* out) {
  const std::vector<Tap> columns = Taps(image.width, width), rows = Taps(image.height, height);
  const size_t values = static_cast<size_t>(width) * kChannels;
  std::vector<float> top(values), bottom(values);
  int top_row = -1, bottom_row = -1;  // what the two hold
  for (const Tap& tap : rows) {
    if (tap.low == bottom_row) std::swap(top, bottom), std::swap(top_row, bottom_row);
    if (tap.low != top_row) StretchRow<kChannels>(image.Row(top_row = tap.low), columns, top);
    if (tap.high != bottom_row) {
      StretchRow<kChannels>(image.Row(bottom_row = tap.high), columns, bottom);
    }
    for (size_t i = 0; i < values; ++i) {
      out[i] = static_cast<uint8_t>(top[i] + (bottom[i] - top[i]) * tap.share);
    }
    out += values;
  }
}

// ---- area --------------------------------------------------------------------

// Input pixels [first, first + shares.size()) and how much of each lies inside.
struct Span {
  int first = 0;
  std::vector<float> shares;
};

std::vector<Span> Spans(int in, int out) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  std::vector<Span> spans(out);
  for (int i = 0; i < out; ++i) {
    const float begin = static_cast<float>(i) * scale, end = static_cast<float>(i + 1) * scale;
    spans[i].first = static_cast<int>(std::floor(begin));
    const int last = static_cast<int>(std::ceil(end));
    for (int p = spans[i].first; p < last; ++p) {
      const float left = static_cast<float>(p), right = static_cast<float>(p + 1);
      spans[i].shares.push_back(right > end ? (left < begin ? scale : end - left)
                                            : (left < begin ? right - begin : 1.0f));
    }
  }
  return spans;
}

// One input row, summed over the columns of each span.
template <int kChannels>
void SumColumns(const uint8_t* row, int width, const std::vector<Span>& columns,
                std::vector<float>& to) {
  float* out = to.data();
  for (const Span& span : columns) {
    float sum[kChannels] = {};
    const int count = static_cast<int>(span.shares.size());
    for (int i = 0; i < count; ++i) {
      // Rounding of its end may point one pixel beyond the image.
      const uint8_t* pixel = row + std::min(span.first + i, width - 1) * kChannels;
      for (int c = 0; c < kChannels; ++c) sum[c] += static_cast<float>(pixel[c]) * span.shares[i];
    }
    for (int c = 0; c < kChannels; ++c) *out++ = sum[c];
  }
}

template <int kChannels>
void Area(const ImageView& image, int height, int width, uint8_t* out) {
  const std::vector<Span> columns = Spans(image.width, width), rows = Spans(image.height, height);
  const float area = static_cast<float>(image.height) / static_cast<float>(height) *
                     (static_cast<float>(image.width) / static_cast<float>(width));
  const float one_by_area = 1.0f / area;
  const size_t values = static_cast<size_t>(width) * kChannels;
  std::vector<float> sums(values), row(values);
  int row_held = -1;  // neighbours share the row on their border
  for (const Span& span : rows) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (size_t i = 0; i < span.shares.size(); ++i) {
      const int y = std::min(span.first + static_cast<int>(i), image.height - 1);
      if (y != row_held) SumColumns<kChannels>(image.Row(row_held = y), image.width, columns, row);
      for (size_t v = 0; v < values; ++v) sums[v] += row[v] * span.shares[i];
    }
    for (size_t v = 0; v < values; ++v) {
      out[v] = static_cast<uint8_t>(std::min(sums[v] * one_by_area, 255.0f));
    }
    out += values;
  }
}

void CopyRows(const ImageView& image, uint8_t* out) {
  const int64_t bytes = int64_t{image.width} * image.channels;
  for (int y = 0; y < image.height; ++y) std::copy_n(image.Row(y), bytes, out + y * bytes);
}

void Check(const ImageView& image, int height, int width, absl::Span<uint8_t> out) {
  VITSCALE_CHECK(image.channels == 1 || image.channels == 3) << image.channels << " channels";
  VITSCALE_CHECK(static_cast<int64_t>(out.size()) == int64_t{height} * width * image.channels);
}

}  // namespace

void ResizeBilinear(const ImageView& image, int height, int width, absl::Span<uint8_t> out) {
  Check(image, height, width, out);
  if (image.height == height && image.width == width) return CopyRows(image, out.data());
  (image.channels == 1 ? Bilinear<1> : Bilinear<3>)(image, height, width, out.data());
}

void ResizeArea(const ImageView& image, int height, int width, absl::Span<uint8_t> out) {
  Check(image, height, width, out);
  if (image.height == height && image.width == width) return CopyRows(image, out.data());
  (image.channels == 1 ? Area<1> : Area<3>)(image, height, width, out.data());
}

Sides SmallSides(int height, int width, int n) {
  const float ratio = static_cast<float>(n) / static_cast<float>(std::min(height, width));
  const auto side = [&](int in) {
    return static_cast<int>(std::nearbyint(static_cast<float>(in) * ratio));
  };
  return {side(height), side(width)};
}

}  // namespace vitscale
