// Which checkpoints may go: a pure function of what lies in the folder, so that every case is a
// line in a test.

#ifndef WORKER_CHECKPOINT_RETENTION_H_
#define WORKER_CHECKPOINT_RETENTION_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/checkpoint/checkpoint_name.h"
#include "worker/checkpoint/manifest.h"

namespace vitscale {

// A complete checkpoint.
struct CheckpointEntry {
  std::string id;    // "<job id>/<name>"
  std::string path;  // of its folder
  CheckpointManifest manifest;
  bool abandoned = false;  // a later lineage opened before its step
};

// A folder that is no valid checkpoint: a save under way, one that was broken off, or damage.
struct IncompleteEntry {
  CheckpointName name;
  std::string path;
  std::string reason;  // "no manifest", "part-… is missing"
  bool has_manifest = false;
  absl::Time modified;  // of the folder, by the file system's clock
};

// "lineage_0002.json": lineage 2 opened from `parent` after `step` steps.
struct LineageTombstone {
  int64_t lineage = 0;
  int64_t step = 0;
  std::string parent;  // checkpoint id; empty: initialisation
  absl::Time time = absl::UnixEpoch();

  bool operator==(const LineageTombstone&) const = default;
};

struct CheckpointListing {
  std::vector<CheckpointEntry>
      valid;  // greatest (lineage, step, attempt, generation) first; abandoned ones marked
  std::vector<IncompleteEntry> incomplete;
  std::vector<LineageTombstone> tombstones;  // by lineage
  int64_t next_lineage() const { return tombstones.empty() ? 1 : tombstones.back().lineage + 1; }
};

// True if some tombstone opens a greater lineage from fewer steps.
bool IsAbandoned(const CheckpointManifest& manifest,
                 const std::vector<LineageTombstone>& tombstones);

struct RetentionRequest {
  int64_t attempt = 0, generation = 0;  // of the caller: what is greater is never touched
  int keep_last = 3;                    // newest usable ones, at least 1
  int64_t keep_every_steps = 0;         // and those whose step is a multiple; 0: none
  std::set<std::string> pinned;         // checkpoint ids
  std::set<std::string> in_use;         // checkpoint ids: being read, copied or evaluated
  absl::Duration orphan_window = absl::Minutes(10);
  absl::Time now;  // wall clock
};

// Folders to remove, oldest first. Never: a greater (attempt, generation) than the caller's; a
// pinned one; one in use; the only usable one; one without manifest that is younger than the orphan
// window. Damaged ones that have a manifest are left to people.
std::vector<CheckpointName> ChooseRemovals(const CheckpointListing& listing,
                                           const RetentionRequest& request,
                                           const std::string& job_id);

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_RETENTION_H_
