// Images in folders, one folder per class: JPEG, PNG and WebP files, each of a size of its own.
// folder_index.h says what is taken from the tree.

#ifndef WORKER_DATA_FOLDER_SOURCE_H_
#define WORKER_DATA_FOLDER_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/raw_images.h"

namespace vitscale {

inline constexpr int64_t kImageFileBytesMax = int64_t{256} << 20;

// Scans the tree; decodes nothing. Errors: those of ResolveBelow and FolderIndex::Scan.
// Decode() gives DATA_LOSS with the path for a file that cannot be decoded (see DecodeImage), is
// too large or longer than kImageFileBytesMax.
absl::StatusOr<std::unique_ptr<RawImages>> OpenFolder(FileSystem& fs,
                                                      const std::vector<std::string>& roots,
                                                      const DataSourceConfig& config,
                                                      const SourceRequest& request);

}  // namespace vitscale

#endif  // WORKER_DATA_FOLDER_SOURCE_H_
