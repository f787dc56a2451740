// What a job file says about a set of images: a plain struct without dependencies, so that
// worker/config and everything that may include it can hold one without the data pipeline.

#ifndef WORKER_DATA_DATA_CONFIG_H_
#define WORKER_DATA_DATA_CONFIG_H_

#include <cstdint>
#include <string>

namespace vitscale {

enum class DataFormat { kIdx, kSynthetic };

struct DataSourceConfig {
  DataFormat format = DataFormat::kIdx;
  std::string images;            // kIdx: file of images, absolute or below a data root
  std::string labels;            // kIdx: file of labels
  int64_t synthetic_images = 0;  // kSynthetic: how many
  int64_t take = 0;              // use only the first so many; 0: all

  bool operator==(const DataSourceConfig&) const = default;
};

}  // namespace vitscale

#endif  // WORKER_DATA_DATA_CONFIG_H_
