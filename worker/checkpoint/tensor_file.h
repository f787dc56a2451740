// Files of named tensors in the safetensors format, written and read front to back in pieces of 8
// MiB: memory use does not depend on the size of the tensors, and a CRC32C of the whole file is
// computed on the way.
//
// Format: u64 length of the header (little-endian), the header as JSON
//   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …, "__metadata__":
//   {"k": "v"}}
// padded by spaces, then the data; the offsets count from the start of the data, and tensors fill
// it without gap or overlap. Source: the format section of
// https://github.com/huggingface/safetensors (README).

#ifndef WORKER_CHECKPOINT_TENSOR_FILE_H_
#define WORKER_CHECKPOINT_TENSOR_FILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/files.h"
#include "kernels/tensor.h"

namespace vitscale {

inline constexpr int64_t kTensorChunkBytes = int64_t{8} << 20;
inline constexpr int64_t kTensorHeaderBytesMax = int64_t{64}
                                                 << 20;  // the format's own limit is 100 MB

// Bytes under a name; dense, row-major, little-endian. Does not own them.
struct NamedTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  absl::Span<const std::byte> bytes;
  // For a tensor that the host cannot address, instead of `bytes`: fills `to` with the bytes from
  // `offset` on. Called front to back, at most kTensorChunkBytes at a time.
  std::function<absl::Status(int64_t offset, absl::Span<std::byte> to)> read = {};
};

struct FileSummary {
  int64_t bytes = 0;
  uint32_t crc32c = 0;  // of the whole file

  bool operator==(const FileSummary&) const = default;
};

// Creates `path` (must not exist) and writes, syncs and closes it; the folder is not synced. Larger
// element types come first in the file. On error the file may be left behind, incomplete.
// INVALID_ARGUMENT: a name twice, empty or "__metadata__", or bytes that do not match dtype and
// shape. Errors of NamedTensor::read end it.
absl::StatusOr<FileSummary> WriteTensorFile(FileSystem& fs, const std::string& path,
                                            const std::vector<NamedTensor>& tensors,
                                            const std::map<std::string, std::string>& metadata);

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t offset = 0;  // from the start of the file
  int64_t bytes = 0;
};

// Takes the bytes of a tensor in pieces of at most kTensorChunkBytes, front to back.
using PieceTaker = std::function<absl::Status(int64_t offset, absl::Span<const std::byte> piece)>;

// Where the bytes of a tensor go: to memory, or to whoever takes them.
struct TensorDestination {
  absl::Span<std::byte> to;
  PieceTaker take = {};
};

class TensorFileReader {
 public:
  // Reads and checks the header. DATA_LOSS for a file that is shorter than its header says or
  // longer, a header that is too long, no JSON, nested where it should not be or holds a name
  // twice, an unknown dtype, a negative or overflowing shape, offsets that do not match the shape,
  // overlap, leave gaps or lie outside the file.
  static absl::StatusOr<TensorFileReader> Open(FileSystem& fs, const std::string& path);

  // In the order in which they lie in the file.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  const TensorEntry* Find(absl::string_view name) const;  // null if there is none
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  int64_t file_bytes() const { return file_->size(); }

  // One tensor; `to` has entry.bytes bytes. Nothing but the length is checked.
  absl::Status Read(const TensorEntry& entry, absl::Span<std::byte> to) const;

  // The whole file from front to back, once: tensors named in `destinations` are written there, the
  // others are only read. Returns the CRC32C of the file. Destinations in memory have the exact
  // sizes; an error of one that takes pieces ends the reading and is returned as it is.
  absl::StatusOr<uint32_t> ReadWhole(
      const absl::flat_hash_map<std::string, TensorDestination>& destinations) const;

 private:
  std::unique_ptr<ReadableFile> file_;
  std::string path_;
  std::vector<TensorEntry> tensors_;
  absl::flat_hash_map<std::string, size_t> by_name_;
  std::map<std::string, std::string> metadata_;
  int64_t data_begin_ = 0;
};

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_TENSOR_FILE_H_
