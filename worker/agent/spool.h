// What must reach the coordinator once, on disk until it is acknowledged.
//
// Folder of segments segment-000000000001.spool, append-only, about 1 MiB each:
//   "vspool1\n", u64 next number (so that numbers rise even if no record is left), u32 CRC32C of
//   both frames: u32 bytes, u32 CRC32C of the bytes, SpooledRecord serialised
// all little-endian. Each life of an agent starts a new segment and never writes to an old one. A
// frame that is cut or whose CRC is wrong is skipped and one event says so; the others are kept. A
// segment goes when all its records are acknowledged. Lifecycle records (events, evaluations,
// checkpoints, gaps) are fsynced at once; a power cut may cost the newest steps and lines of
// output, a killed agent costs nothing.
//
// Sized: beyond `bytes_max` every second step record and line of output goes, again and again, and
// a gap record per attempt names the range; lifecycle records are never dropped. A disk that fails
// does not stop the agent: records stay in memory, are handed in all the same, and go to disk once
// it works again.
//
// Not thread-safe.

#ifndef WORKER_AGENT_SPOOL_H_
#define WORKER_AGENT_SPOOL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/files.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

struct SpoolOptions {
  std::string directory;         // made if missing
  std::string incarnation;       // stands in every record of this life
  int64_t bytes_max = 64 << 20;  // the orphan window at 300 records of 300 bytes a second
  int64_t segment_bytes = 1 << 20;
  int64_t in_flight_max = 4 << 20;  // sent and not acknowledged
};

class Spool {
 public:
  // Reads what former lives left. Errors: the folder cannot be made or listed, a segment cannot be
  // read.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(FileSystem& fs, SpoolOptions options);

  // Numbers the records and writes them. An error is one of the disk; the records are kept in
  // memory then.
  absl::Status Append(std::vector<link::SpooledRecord> records);

  // Everything up to `number` is committed by the coordinator.
  void Acknowledge(int64_t number);

  // A new session: everything unacknowledged is unsent.
  void Rewind() { sent_ = 0; }
  // The next unsent records, serialised, together at most `bytes_max` (one, if the first is
  // greater); they count as sent. Valid until the next call of Append or Acknowledge.
  std::vector<absl::string_view> TakeUnsent(int64_t bytes_max);
  // TakeUnsent would give something: false also while in_flight_max is used up.
  bool HasUnsent() const;

  int64_t unacknowledged() const { return static_cast<int64_t>(entries_.size()); }
  int64_t bytes() const { return bytes_; }
  int64_t dropped() const { return dropped_; }  // records thinned out in this life
  bool on_disk() const { return unwritten_ == 0; }

 private:
  struct Entry {
    int64_t number = 0;
    std::string bytes;  // serialised
    std::string job_id;
    int64_t attempt = 0;
    enum class Kind { kLifecycle, kStep, kLog, kGap } kind = Kind::kLifecycle;
    int64_t first_step = 0, last_step = 0;  // of a step or a gap
  };
  struct Segment {
    std::string path;
    int64_t last_number = 0;  // greatest in it; 0: none
  };

  Spool(FileSystem& fs, SpoolOptions options) : fs_(fs), options_(std::move(options)) {}

  absl::Status ReadSegment(const std::string& name, std::map<int64_t, Entry>& found,
                           int64_t& damaged_bytes);
  static Entry MakeEntry(const link::SpooledRecord& record, std::string bytes);
  void Push(link::SpooledRecord record);
  absl::Status StartSegment();
  absl::Status WriteUnwritten();
  void ThinOut();
  void DropEverySecond(Entry::Kind kind, std::vector<Entry>& dropped);
  void RecordDropped(const std::vector<Entry>& dropped);
  absl::Status Compact();
  void RemoveAcknowledgedSegments();

  FileSystem& fs_;
  const SpoolOptions options_;
  int64_t next_number_ = 1;
  int64_t next_segment_ = 1;
  std::deque<Entry> entries_;  // unacknowledged, by number
  int64_t bytes_ = 0;
  int64_t sent_ = 0;      // number of the newest sent record
  size_t unwritten_ = 0;  // newest entries that are not on disk
  int64_t dropped_ = 0;
  std::deque<Segment> segments_;  // oldest first; the last one is written
  std::unique_ptr<WritableFile> file_;
  int64_t file_bytes_ = 0;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_SPOOL_H_
