// Resizing, as TensorFlow 2.21 does it (tf.image.resize) and big_vision then rounds it: results are
// cut to whole bytes, not rounded (pp/ops_image.py casts back to uint8).

#ifndef WORKER_DATA_IMAGE_RESIZE_H_
#define WORKER_DATA_IMAGE_RESIZE_H_

#include <cstdint>

#include "absl/types/span.h"
#include "worker/data/image/image.h"

namespace vitscale {

// method="bilinear", antialias=False: output (y, x) is taken at ((y + 1/2) * scale - 1/2, …), scale
// = in / out, from the four pixels around it whatever the scale; f32 arithmetic in TensorFlow's
// order, so that the cut bytes are equal. `out`: [height, width, image.channels].
void ResizeBilinear(const ImageView& image, int height, int width, absl::Span<uint8_t> out);

// method="area": the mean of the rectangle [y * scale, (y + 1) * scale) of the input, pixels on its
// rim counted by their share; likewise in TensorFlow's order.
void ResizeArea(const ImageView& image, int height, int width, absl::Span<uint8_t> out);

// Sides after resize_small(n): the shorter one becomes n, the other keeps the ratio, f32, rounded
// to nearest even (tf.round).
struct Sides {
  int height = 0, width = 0;
};
Sides SmallSides(int height, int width, int n);

}  // namespace vitscale

#endif  // WORKER_DATA_IMAGE_RESIZE_H_
