// IDX files (MNIST, Fashion-MNIST), plain or gzip, held decompressed in memory.
//
// Format: two zero bytes, one byte for the element type (8: unsigned byte), one for the number of
// dimensions, each dimension as a big-endian 32-bit number, then the elements, last dimension
// fastest. Source: LeCun, Cortes, Burges, "The MNIST database", file format section. Images have 3
// dimensions (one channel) or 4 (channels last); labels have 1.

#ifndef WORKER_DATA_IDX_SOURCE_H_
#define WORKER_DATA_IDX_SOURCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/source.h"

namespace vitscale {

inline constexpr int64_t kIdxBytesMax = int64_t{8} << 30;  // of elements, decompressed

struct IdxFile {
  std::vector<int64_t> dims;
  std::vector<uint8_t> elements;
};

// Whole file, validated against its own header; `dims_min`..`dims_max` dimensions are accepted.
// With `take` > 0 only the first so many entries of the first dimension are kept (the rest is still
// checked to be there). `path` is used as it is. Errors: see OpenSource.
absl::StatusOr<IdxFile> ReadIdx(FileSystem& fs, const std::string& path, int dims_min, int dims_max,
                                int64_t take);

// See OpenSource.
absl::StatusOr<std::unique_ptr<ImageSource>> OpenIdxSource(FileSystem& fs,
                                                           const std::vector<std::string>& roots,
                                                           const DataSourceConfig& config,
                                                           const SourceRequest& request);

}  // namespace vitscale

#endif  // WORKER_DATA_IDX_SOURCE_H_
