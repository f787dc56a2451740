// A file system in memory that fails on command and forgets what was not synced.
//
// It keeps two states: what a reader sees now, and what would be there after the power went. Sync()
// of a file makes its bytes durable, SyncDirectory() the names in a directory; nothing else does.
// Tests count the operations that change something, crash at each of them in turn, restart, and
// look at what is left:
//
//   FaultFileSystem fs;
//   …                                     // make the state that must survive
//   fs.CrashAt(fs.operations() + k);      // the k-th change from here on does not happen, nor any
//   after it (void)Save(fs); fs.Restart(AfterCrash::kLoseUnsynced); EXPECT_THAT(Load(fs), IsOk());
//
// Paths are absolute, without "." and ".."; there are no symlinks. Thread-safe.

#ifndef TESTS_FAULT_FAULT_FILE_H_
#define TESTS_FAULT_FAULT_FILE_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/files.h"
#include "kernels/base/random.h"

namespace vitscale {

enum class AfterCrash {
  kKeepAll,       // the process was killed: the kernel writes the rest
  kLoseUnsynced,  // the power went: only what was synced is there
  kRandom,  // each unsynced name survives or not; each file keeps a piece of its unsynced bytes, or
            // zeros
};

// A change about to be made.
struct FileOperation {
  std::string
      kind;  // "create", "append", "sync", "close", "make", "rename", "remove", "sync_directory"
  std::string path;
  int64_t number = 0;  // 0 for the first change
};

class FaultFileSystem : public FileSystem {
 public:
  explicit FaultFileSystem(uint64_t seed = 1);
  ~FaultFileSystem() override;

  // ---- faults ------------------------------------------------------------------
  int64_t operations() const;  // changes so far, failed ones included
  // The change with this number and every later operation fails with UNAVAILABLE "crashed"; an
  // append writes half.
  void CrashAt(int64_t number);
  bool crashed() const;
  // After a crash, or as one: forgets as told and works again. Open files stay dead.
  void Restart(AfterCrash how);
  // Asked before each change; an error is returned instead of doing it (an append writes half
  // first: a short write).
  void SetHook(std::function<absl::Status(const FileOperation&)> hook);
  // Appends beyond so many bytes in all files write what fits and fail with RESOURCE_EXHAUSTED.
  void SetCapacity(int64_t bytes);

  // ---- damage ------------------------------------------------------------------
  void FlipBit(const std::string& path, int64_t byte, int bit);  // durably
  void Truncate(const std::string& path, int64_t bytes);         // durably
  void SetModified(const std::string& path, absl::Time time);    // for all below it too
  void SetNow(absl::Time now);                                   // stamp of later changes
  std::vector<std::string> AllFiles() const;                     // paths, sorted

  // ---- FileSystem --------------------------------------------------------------
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateExclusive(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override;
  absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t bytes_max) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;
  absl::StatusOr<FileInfo> Stat(const std::string& path) override;
  absl::StatusOr<std::string> RealPath(const std::string& path) override;
  absl::Status MakeDirectory(const std::string& path) override;
  absl::Status MakeDirectories(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;

 private:
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  class Writer;
  class Reader;

  // All below: mutex_ is held.
  absl::Status Change(const std::string& kind, const std::string& path);
  absl::Status CheckAlive() const;
  NodePtr Find(const std::string& path) const;
  absl::StatusOr<NodePtr> FindOrError(const std::string& verb, const std::string& path) const;
  absl::StatusOr<NodePtr> ParentOf(const std::string& verb, const std::string& path) const;
  int64_t UsedBytes(const NodePtr& node) const;
  void Forget(const NodePtr& node, AfterCrash how);
  void Collect(const NodePtr& node, const std::string& path, std::vector<std::string>* files) const;
  void Stamp(const NodePtr& node, absl::Time time);

  mutable std::mutex mutex_;
  NodePtr root_;
  std::unique_ptr<Random> random_;
  std::function<absl::Status(const FileOperation&)> hook_;
  int64_t operations_ = 0;
  int64_t crash_at_ = std::numeric_limits<int64_t>::max();
  int64_t life_ = 0;  // raised by Restart: files of an earlier life are dead
  int64_t capacity_ = std::numeric_limits<int64_t>::max();
  absl::Time now_;
};

}  // namespace vitscale

#endif  // TESTS_FAULT_FAULT_FILE_H_
