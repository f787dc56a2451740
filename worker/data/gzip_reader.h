// Bytes of a file, decompressed if it is gzip (recognised by its first two bytes), front to back.

#ifndef WORKER_DATA_GZIP_READER_H_
#define WORKER_DATA_GZIP_READER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/files.h"

namespace vitscale {

class GzipReader {
 public:
  static absl::StatusOr<GzipReader> Open(FileSystem& fs, const std::string& path);
  GzipReader(GzipReader&&) = default;
  GzipReader& operator=(GzipReader&&) = default;

  // Up to bytes.size() bytes; fewer only at the end. DATA_LOSS for broken or truncated gzip and for
  // bytes after it; several gzip members in a row are one stream, as in gunzip.
  absl::StatusOr<int64_t> Read(absl::Span<uint8_t> bytes);

 private:
  struct Inflater;
  struct InflaterDelete {
    void operator()(Inflater* inflater) const;
  };
  GzipReader(std::string path, std::unique_ptr<ReadableFile> file)
      : path_(std::move(path)), file_(std::move(file)) {}
  absl::StatusOr<int64_t> ReadPlain(absl::Span<uint8_t> bytes);
  absl::StatusOr<int64_t> ReadGzip(absl::Span<uint8_t> bytes);
  absl::Status FillInput();

  std::string path_;
  std::unique_ptr<ReadableFile> file_;
  int64_t offset_ = 0;                                  // of the file: what has been read from it
  std::unique_ptr<Inflater, InflaterDelete> inflater_;  // null: plain
};

}  // namespace vitscale

#endif  // WORKER_DATA_GZIP_READER_H_
