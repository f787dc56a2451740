// .npz files: a zip of .npy files, stored or deflated, beyond 4 GiB too (zip64). Zips are read and
// written by libarchive, which stays in npz_file.cc and npz_writer.cc; files go through FileSystem.

#ifndef WORKER_WEIGHTS_NPZ_FILE_H_
#define WORKER_WEIGHTS_NPZ_FILE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/files.h"
#include "kernels/tensor.h"
#include "worker/weights/weight_file.h"

namespace vitscale {

// Reads all .npy headers. Errors: see OpenWeightFile.
absl::StatusOr<std::unique_ptr<WeightFile>> OpenNpz(FileSystem& fs, const std::string& path);

// Writes an .npz whose entries are stored, as numpy.savez does: one tensor after the other.
class NpzWriter {
 public:
  // Creates `path`, which must not exist.
  static absl::StatusOr<std::unique_ptr<NpzWriter>> Create(FileSystem& fs, const std::string& path);
  virtual ~NpzWriter() = default;
  // INVALID_ARGUMENT when the values do not fill the shape.
  virtual absl::Status Add(absl::string_view name, const Shape& shape,
                           absl::Span<const float> values) = 0;
  // Directory, sync, close. Without it the file is no zip.
  virtual absl::Status Finish() = 0;
};

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_NPZ_FILE_H_
