// A set of labelled images that can be read in any order.
//
// Opening a source validates it whole (magic numbers, dimensions, lengths, every label), so that a
// broken file is an error before the first step and never one in the middle of a run.

#ifndef WORKER_DATA_SOURCE_H_
#define WORKER_DATA_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/files.h"
#include "worker/data/data_config.h"

namespace vitscale {

// Const methods are thread-safe.
class ImageSource {
 public:
  virtual ~ImageSource() = default;

  virtual int64_t size() const = 0;  // images, at least 1
  virtual int height() const = 0;    // pixels, of every image
  virtual int width() const = 0;
  virtual int channels() const = 0;
  virtual int classes_seen() const = 0;  // greatest label + 1

  // `index` in [0, size()).
  virtual int32_t label(int64_t index) const = 0;
  // Pixels [height, width, channels] of one image; `pixels` has image_bytes() bytes.
  virtual absl::Status Read(int64_t index, absl::Span<uint8_t> pixels) const = 0;
  // For people: "idx '/data/train-images…': 60000 images of 28x28x1, 10 classes".
  virtual std::string description() const = 0;

  int64_t image_bytes() const { return int64_t{height()} * width() * channels(); }
};

// What the model wants. A source of another size is an error; 0 accepts any (not for synthetic
// sources).
struct SourceRequest {
  int classes = 0;  // labels must be below it
  int height = 0, width = 0, channels = 0;
  uint64_t seed = 0;  // synthetic sources; a constant of the data set, not of the run
};

// Opens and validates. `roots` are the data roots of this worker.
// Errors: INVALID_ARGUMENT (config, image size or number of classes against the request),
// PERMISSION_DENIED (path outside the roots), NOT_FOUND (missing file), DATA_LOSS (bad magic
// number, truncated, trailing bytes, label out of range, different numbers of images and labels,
// broken gzip), RESOURCE_EXHAUSTED (larger than kIdxBytesMax). Each names the file, what was there
// and what was wanted.
absl::StatusOr<std::unique_ptr<ImageSource>> OpenSource(FileSystem& fs,
                                                        const std::vector<std::string>& roots,
                                                        const DataSourceConfig& config,
                                                        const SourceRequest& request);

}  // namespace vitscale

#endif  // WORKER_DATA_SOURCE_H_
