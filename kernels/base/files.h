// Files as a seam, so that tests can cut the power between any two operations (tests/fault/fault_file.h).
//
// Errors: ErrnoStatus with the path in quotes ("create '/x/y': File exists" is ALREADY_EXISTS; a full disk is
// RESOURCE_EXHAUSTED). Every method is thread-safe; one file object is used by one thread at a time.
// Durability: bytes survive a crash once Sync() of the file AND SyncDirectory() of its folder have returned.

#ifndef KERNELS_BASE_FILES_H_
#define KERNELS_BASE_FILES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace vitscale {

// Written front to back. Destroying it without Close() closes it and loses the error.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual absl::Status Append(absl::string_view bytes) = 0;  // all of them or an error
  virtual absl::Status Sync() = 0;                           // fdatasync
  virtual absl::Status Close() = 0;
};

class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  virtual int64_t size() const = 0;  // when opened
  // Fills `bytes` from `offset` on. OUT_OF_RANGE "short read" when the file ends before.
  virtual absl::Status ReadAt(int64_t offset, absl::Span<char> bytes) const = 0;
};

struct FileInfo {
  int64_t bytes = 0;
  bool is_directory = false;
  bool is_regular = false;
  bool is_symlink = false;  // the path itself; the rest is about its target
  absl::Time modified;  // by the file system's clock
};

// A name in a directory and what it stands for; symlinks are not followed.
struct DirectoryEntry {
  std::string name;
  bool is_directory = false, is_regular = false, is_symlink = false;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Open(O_CREAT | O_EXCL): ALREADY_EXISTS if there is anything at `path`, a dangling symlink included.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) = 0;
  // Regular files only, here and below: FAILED_PRECONDITION saying what else it is. Opening a FIFO
  // does not wait for a writer.
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) = 0;
  // The whole file. RESOURCE_EXHAUSTED when it is longer than `bytes_max`.
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t bytes_max) = 0;

  // Names (not paths) in a directory, sorted, without "." and "..".
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& path) = 0;
  // The same with kinds. Here by List and Stat; the real file system reads them with the names, which
  // for a million files saves a million calls. A dangling symlink is listed.
  virtual absl::StatusOr<std::vector<DirectoryEntry>> ListEntries(const std::string& path);
  // Follows symlinks; a dangling one is NOT_FOUND.
  virtual absl::StatusOr<FileInfo> Stat(const std::string& path) = 0;
  // Absolute, every symlink and ".." resolved. NOT_FOUND if any part is missing.
  virtual absl::StatusOr<std::string> RealPath(const std::string& path) = 0;

  virtual absl::Status MakeDirectory(const std::string& path) = 0;  // must not exist
  virtual absl::Status MakeDirectories(const std::string& path) = 0;  // parents too; may exist
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;  // replaces `to`
  virtual absl::Status Remove(const std::string& path) = 0;  // a file, a symlink or an empty directory
  virtual absl::Status SyncDirectory(const std::string& path) = 0;

  // True if there is something; false only for NOT_FOUND.
  absl::StatusOr<bool> Exists(const std::string& path);
};

FileSystem& PosixFileSystem();

// Temporary file beside `path`, fsync, rename over `path`, fsync of the folder: after a crash there is the old
// file or the new one. The temporary's name ends in ".tmp"; one left behind by a crash is replaced.
absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, absl::string_view bytes);

// Removes a directory and everything below; symlinks are removed, not followed. RESOURCE_EXHAUSTED, with nothing
// removed, when it holds more than `entries_max` entries or is deeper than 16. Missing is OK.
absl::Status RemoveTree(FileSystem& fs, const std::string& path, int64_t entries_max = 100000);

// A new directory under $TMPDIR or /tmp, removed with everything in it when this object goes. For tests and tools.
class TemporaryDirectory {
 public:
  TemporaryDirectory();  // checks that it could be made
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace vitscale

#endif  // KERNELS_BASE_FILES_H_
