// A checkpoint by the path of its folder, as people and tools name it. Nothing is made or changed.

#ifndef WORKER_CHECKPOINT_CHECKPOINT_FOLDER_H_
#define WORKER_CHECKPOINT_CHECKPOINT_FOLDER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/files.h"
#include "worker/checkpoint/checkpoint_store.h"

namespace vitscale {

struct CheckpointFolder {
  CheckpointStore store;
  CheckpointName name;

  std::string path() const { return store.PathOf(name); }
};

// `path`, absolute: a checkpoint's folder, or a job's, which stands for its newest usable
// checkpoint. NOT_FOUND if it is not there or a job's folder has none; INVALID_ARGUMENT if it is
// neither.
absl::StatusOr<CheckpointFolder> FindCheckpointFolder(FileSystem& fs, const std::string& path);

// All tensors, sorted by name; offsets are those within their parts. DATA_LOSS naming the file.
absl::StatusOr<std::vector<TensorEntry>> ListTensors(FileSystem& fs, const std::string& path,
                                                     const CheckpointManifest& manifest);

struct FileVerdict {
  std::string name;  // of the file
  int64_t bytes = 0;
  absl::Status status;  // OK: there, with size and CRC32C of the manifest and a sound header
};

// Reads every file whole and says what is wrong with each; goes on after the first that is bad.
// `progress` is called now and then with the bytes done and the bytes of all files.
std::vector<FileVerdict> VerifyFiles(FileSystem& fs, const std::string& path,
                                     const CheckpointManifest& manifest,
                                     const std::function<void(int64_t, int64_t)>& progress);

// The manifest in a checkpoint's folder, without looking at its files. NOT_FOUND, DATA_LOSS.
absl::StatusOr<CheckpointManifest> ReadManifestIn(FileSystem& fs, const std::string& path);

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_CHECKPOINT_FOLDER_H_
