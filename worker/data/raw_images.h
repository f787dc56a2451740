// Labelled images as they are stored, each of a size of its own; and how they become an ImageSource
// of one size by preprocessing.

#ifndef WORKER_DATA_RAW_IMAGES_H_
#define WORKER_DATA_RAW_IMAGES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/image/image.h"
#include "worker/data/source.h"

namespace vitscale {

// Const methods are thread-safe; the rest as in ImageSource.
class RawImages {
 public:
  virtual ~RawImages() = default;
  virtual int64_t size() const = 0;
  virtual int channels() const = 0;
  virtual int classes_seen() const = 0;
  virtual int32_t label(int64_t index) const = 0;
  virtual const std::vector<std::string>& class_names() const = 0;
  virtual uint64_t fingerprint() const = 0;
  virtual std::string description() const = 0;

  // One image, in `buffer` or in memory of this object; good until either changes. Errors name the
  // image.
  virtual absl::StatusOr<ImageView> Decode(int64_t index, Image* buffer) const = 0;
  // For errors: "image 'n01440764/x.JPEG'".
  virtual std::string NameOf(int64_t index) const = 0;
};

// Images of one size, unchanged.
std::unique_ptr<RawImages> MakeRawImages(std::unique_ptr<ImageSource> source);

// Every image after request.ops, request.height x request.width.
std::unique_ptr<ImageSource> MakePreprocessedSource(std::unique_ptr<RawImages> images,
                                                    const SourceRequest& request);

}  // namespace vitscale

#endif  // WORKER_DATA_RAW_IMAGES_H_
