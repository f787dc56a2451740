// A folder of photograph-like JPEG files in two class folders, for timing the data pipeline without
// a data set.

#ifndef WORKER_BENCH_JPEG_FOLDER_H_
#define WORKER_BENCH_JPEG_FOLDER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace vitscale {

// Writes `images` files of width x height x 3 at quality 90 below `directory`, which exists and is
// empty; the same ones each time. Smooth shapes under a little noise: about 2 bits a pixel, as
// photographs have. Returns the bytes of all files.
absl::StatusOr<int64_t> WriteJpegFolder(const std::string& directory, int64_t images, int width,
                                        int height);

}  // namespace vitscale

#endif  // WORKER_BENCH_JPEG_FOLDER_H_
