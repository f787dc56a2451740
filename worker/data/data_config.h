// What a job file says about a set of images: a plain struct without dependencies, so that
// worker/config and everything that may include it can hold one without the data pipeline.

#ifndef WORKER_DATA_DATA_CONFIG_H_
#define WORKER_DATA_DATA_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

namespace vitscale {

enum class DataFormat { kIdx, kSynthetic, kFolder };

struct DataSourceConfig {
  DataFormat format = DataFormat::kIdx;
  std::string images;            // kIdx: file of images, absolute or below a data root
  std::string labels;            // kIdx: file of labels
  std::string path;              // kFolder: the folder with a folder for each class
  int64_t synthetic_images = 0;  // kSynthetic: how many
  // Use only so many; 0: all. The first ones, but of a folder the first of each class in turn.
  int64_t take = 0;

  bool operator==(const DataSourceConfig&) const = default;
};

// What is done to an image on the host before its bytes go to the device. Meaning:
// worker/data/preprocess.h.
enum class ImageOpKind { kResize, kResizeSmall, kCentralCrop, kInceptionCrop, kRandomCrop };
struct ImageOp {
  ImageOpKind kind = ImageOpKind::kResize;
  int height = 0, width = 0;             // kResizeSmall: of the shorter side, both the same
  double area_min = 0.05, area_max = 1;  // kInceptionCrop: shares of the image's area

  bool operator==(const ImageOp&) const = default;
};

// The preprocessing of a job file, parsed.
struct Preprocess {
  std::vector<ImageOp> ops;  // in order; empty: images already have the model's size
  bool flip_lr = false;      // with probability 1/2, on the device, after `ops`
  float range_min = -1.0f, range_max = 1.0f;  // pixel p becomes min + p / 255 * (max - min)

  bool operator==(const Preprocess&) const = default;
};

}  // namespace vitscale

#endif  // WORKER_DATA_DATA_CONFIG_H_
