// A set of labelled images that can be read in any order.
//
// Opening a source validates as much of it as can be had for little: an IDX file whole (magic
// number, dimensions, lengths, every label), so that it never fails in the middle of a run; of a
// folder the tree and the names, since decoding a million images before the first step would take
// an hour. An image that cannot be decoded is an error when its turn comes, DATA_LOSS with its
// path.

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
  // The same as epoch number `epoch` of a run sees it: another crop each time. A pure function of
  // its arguments and of the seed of the run.
  virtual absl::Status ReadInEpoch(int64_t index, int64_t epoch, absl::Span<uint8_t> pixels) const {
    return Read(index, pixels);
  }
  // Names of the classes, in order; empty where the format has none.
  virtual const std::vector<std::string>& class_names() const;
  // Equal for workers that see the same set, as far as that is known without reading it all.
  virtual uint64_t fingerprint() const { return static_cast<uint64_t>(size()); }
  // Reading takes milliseconds of a core (decoding): worth many loader threads.
  virtual bool is_slow() const { return false; }
  // For people: "idx '/data/train-images…': 60000 images of 28x28x1, 10 classes".
  virtual std::string description() const = 0;

  int64_t image_bytes() const { return int64_t{height()} * width() * channels(); }
};

// What the model wants. Without ops a source of another size is an error; 0 accepts any (not for
// synthetic sources).
struct SourceRequest {
  int classes = 0;  // labels must be below it
  int height = 0, width = 0, channels = 0;
  uint64_t seed = 0;         // synthetic sources; a constant of the data set, not of the run
  std::vector<ImageOp> ops;  // done to every image; they must end at height x width
  uint64_t draw_seed = 0;    // of the run: random crops
};

// Opens and validates. `roots` are the data roots of this worker. With ops, or of a folder, one
// image is read to see that it comes out in the size wanted. Errors: INVALID_ARGUMENT (config,
// image size or number of classes against the request), PERMISSION_DENIED (path outside the roots),
// NOT_FOUND (missing file), DATA_LOSS (bad magic number, truncated, trailing bytes, label out of
// range, different numbers of images and labels, broken gzip), RESOURCE_EXHAUSTED (larger than
// kIdxBytesMax). Each names the file, what was there and what was wanted.
absl::StatusOr<std::unique_ptr<ImageSource>> OpenSource(FileSystem& fs,
                                                        const std::vector<std::string>& roots,
                                                        const DataSourceConfig& config,
                                                        const SourceRequest& request);

// INVALID_ARGUMENT with the differences unless class number i of `eval` has the name of class
// number i of `train`. Sets without names are not compared.
absl::Status CheckSameClasses(const ImageSource& train, const ImageSource& eval,
                              absl::string_view train_name = "data.train");

// The same question where only the hash of the training set's names is left, as checkpoints keep
// it. 0: the source has no names. INVALID_ARGUMENT if both are known and differ.
uint64_t ClassNamesHash(const ImageSource& source);
absl::Status CheckClassNames(uint64_t trained_on, const ImageSource& eval);

}  // namespace vitscale

#endif  // WORKER_DATA_SOURCE_H_
