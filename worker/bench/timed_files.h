// A file system that counts the seconds spent in syncs; all else goes through unchanged.

#ifndef WORKER_BENCH_TIMED_FILES_H_
#define WORKER_BENCH_TIMED_FILES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/files.h"

namespace vitscale {

class TimedFiles : public FileSystem {
 public:
  explicit TimedFiles(FileSystem& fs) : fs_(fs) {}

  // Of files and directories, since the last call. From any thread.
  double TakeSyncSeconds() { return 1e-9 * static_cast<double>(sync_nanos_.exchange(0)); }
  void AddSyncSeconds(double seconds) { sync_nanos_ += static_cast<int64_t>(seconds * 1e9); }

  absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;

  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    return fs_.Open(path);
  }
  absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t bytes_max) override {
    return fs_.ReadFile(path, bytes_max);
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return fs_.List(path);
  }
  absl::StatusOr<std::vector<DirectoryEntry>> ListEntries(const std::string& path) override {
    return fs_.ListEntries(path);
  }
  absl::StatusOr<FileInfo> Stat(const std::string& path) override { return fs_.Stat(path); }
  absl::StatusOr<std::string> RealPath(const std::string& path) override {
    return fs_.RealPath(path);
  }
  absl::Status MakeDirectory(const std::string& path) override { return fs_.MakeDirectory(path); }
  absl::Status MakeDirectories(const std::string& path) override {
    return fs_.MakeDirectories(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return fs_.Rename(from, to);
  }
  absl::Status Remove(const std::string& path) override { return fs_.Remove(path); }

 private:
  FileSystem& fs_;
  std::atomic<int64_t> sync_nanos_{0};
};

}  // namespace vitscale

#endif  // WORKER_BENCH_TIMED_FILES_H_
