// Rectangles to cut out of an image.

#ifndef WORKER_DATA_IMAGE_CROP_H_
#define WORKER_DATA_IMAGE_CROP_H_

#include "absl/status/statusor.h"
#include "kernels/base/philox.h"
#include "worker/data/image/image.h"

namespace vitscale {

struct Box {
  int top = 0, left = 0, height = 0, width = 0;
};

// INVALID_ARGUMENT when the image is smaller.
absl::StatusOr<Box> CentralBox(int image_height, int image_width, int height, int width);
absl::StatusOr<Box> RandomBox(int image_height, int image_width, int height, int width,
                              Draws& draws);

// Shares of the image's area.
struct AreaRange {
  double min = 0.05, max = 1;
};

// The box of an inception crop: width / height uniform in [0.75, 1.33), then the height uniform
// among those that keep the area in range and the box inside, then the place uniform. At most 100
// tries, then the whole image. It has the distribution of TensorFlow's
// tf.image.sample_distorted_bounding_box with its default aspect_ratio_range and max_attempts,
// without bounding boxes, min_object_covered 0
// (tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc); the draws are ours. As
// there, a box smaller than the image never touches its lower or right edge: places are drawn from
// [0, image - box), not [0, image - box].
Box InceptionBox(int image_height, int image_width, const AreaRange& area, Draws& draws);

ImageView Cut(const ImageView& image, const Box& box);

}  // namespace vitscale

#endif  // WORKER_DATA_IMAGE_CROP_H_
