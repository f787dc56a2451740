// Pixels of one image on the host: unsigned bytes, rows from the top, channels last.

#ifndef WORKER_DATA_IMAGE_IMAGE_H_
#define WORKER_DATA_IMAGE_IMAGE_H_

#include <cstdint>
#include <vector>

namespace vitscale {

// A look at pixels that somebody else owns: a whole image, or a rectangle of one.
struct ImageView {
  const uint8_t* pixels = nullptr;  // [height, width, channels], rows row_bytes apart
  int height = 0, width = 0, channels = 0;
  int64_t row_bytes = 0;

  const uint8_t* Row(int y) const { return pixels + y * row_bytes; }
};

// Owns its pixels; resizing keeps the buffer.
class Image {
 public:
  void Resize(int height, int width, int channels) {
    height_ = height, width_ = width, channels_ = channels;
    pixels_.resize(int64_t{height} * width * channels);
  }
  uint8_t* pixels() { return pixels_.data(); }
  int height() const { return height_; }
  int width() const { return width_; }
  int channels() const { return channels_; }
  int64_t row_bytes() const { return int64_t{width_} * channels_; }
  ImageView view() const { return {pixels_.data(), height_, width_, channels_, row_bytes()}; }
  // Gives the buffer back if it holds more than `bytes_max`: one huge image must not cost memory
  // for ever.
  void ReleaseAbove(int64_t bytes_max) {
    if (static_cast<int64_t>(pixels_.capacity()) <= bytes_max) return;
    pixels_ = {};
    height_ = width_ = 0;
  }

 private:
  int height_ = 0, width_ = 0, channels_ = 0;
  std::vector<uint8_t> pixels_;
};

}  // namespace vitscale

#endif  // WORKER_DATA_IMAGE_IMAGE_H_
