// The ops of a job file's preprocessing that change the size of an image. They run on the host, in
// the loader's threads, on bytes; flip and range are left to the device (ImagesToPatches).
//
//   op                               meaning
//   resize(h[,w])                    bilinear, no antialias; the ratio of the sides is not kept
//   resize_small(n)                  shorter side n, by area means, the ratio kept
//   central_crop(n)                  from row floor((height - n) / 2), and likewise the column
//   inception_crop(n[,min[,max]])    a random rectangle of min to max (5 to 100) per cent of the
//                                    area, then as resize(n)
//   random_crop(n)                   a random square of n x n
//
// Names and meaning follow big_vision's pp strings (pp/ops_image.py, pp/ops_general.py); after each
// resize pixels are cut to whole bytes, as there. The text is parsed by proto/spec/preprocess.h and
// comes here as ImageOp (data_config.h).

#ifndef WORKER_DATA_PREPROCESS_H_
#define WORKER_DATA_PREPROCESS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/base/philox.h"
#include "worker/data/data_config.h"
#include "worker/data/image/image.h"

namespace vitscale {

// Applies `ops` in order and writes [height, width, image.channels] to `out`. Random ops take what
// they need from `draws` in turn. Errors: INVALID_ARGUMENT if a crop is larger than the image or
// the result is not height x width.
absl::Status ApplyImageOps(const std::vector<ImageOp>& ops, const ImageView& image, Draws& draws,
                           int height, int width, absl::Span<uint8_t> out);

}  // namespace vitscale

#endif  // WORKER_DATA_PREPROCESS_H_
