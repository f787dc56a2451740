// manifest.json, written last: a checkpoint exists if and only if its manifest does.
//
// It names every file with size and CRC32C, what the state is (step, images, digest) and all that a
// resumed run must restore or report as changed (spec, seed, plan, numerics record, lineage).

#ifndef WORKER_CHECKPOINT_MANIFEST_H_
#define WORKER_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/checkpoint/checkpoint_name.h"
#include "worker/link/messages.h"  // NumericsRecord, CheckpointInfo: plain structs

namespace vitscale {

inline constexpr int64_t kManifestBytesMax = int64_t{16} << 20;

struct PartFile {
  std::string name;  // no slash
  int64_t bytes = 0;
  uint32_t crc32c = 0;

  bool operator==(const PartFile&) const = default;
};

struct CheckpointManifest {
  std::string job_id;
  CheckpointName name;  // attempt, generation, step
  int64_t lineage = 0;
  std::string parent;   // checkpoint id that the lineage opened from; empty: initialisation
  int64_t images = 0;   // seen so far
  uint64_t digest = 0;  // of master parameters, momentum and second moment
  uint64_t seed = 0;
  uint64_t plan_hash = 0;
  link::NumericsRecord numerics;
  std::string spec;                     // canonical YAML of the job
  std::string version;                  // of the vitscale that wrote it
  bool final = false;                   // the run ended here
  bool weights_only = false;            // parameters alone, imported: no moments, step 0, digest 0
  int64_t train_images = 0;             // in the training set; 0: not known
  uint64_t class_names = 0;             // hash of its class folders' names; 0: it has none
  absl::Time time = absl::UnixEpoch();  // wall clock of the writer
  std::vector<PartFile> files;          // one per rank, in rank order

  int64_t total_bytes() const;  // of `files`
  bool operator==(const CheckpointManifest&) const = default;
};

// Indented JSON ending in a CRC32C of all the rest. Format 1; format 2 where weights_only,
// train_images or class_names say something, so that a version which knows only format 1 says so
// instead of looking for moments.
std::string ManifestToJson(const CheckpointManifest& manifest);

// DATA_LOSS names the field: not JSON, missing, of the wrong type, unknown, out of range, a file
// name with a slash or twice, or a checksum that does not match. UNIMPLEMENTED for a newer format
// number.
absl::StatusOr<CheckpointManifest> ManifestFromJson(absl::string_view text);

// What is reported to the coordinator; `path` is the checkpoint's folder.
link::CheckpointInfo InfoOf(const CheckpointManifest& manifest, const std::string& path);

// One line per difference ("world_size 2, now 1"), empty if none: "resumes, not bit-exact: …". The
// recompute level decides no bit and is passed over, choices too where either side knows none.
std::vector<std::string> NumericsDifferences(const link::NumericsRecord& before,
                                             const link::NumericsRecord& now);

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_MANIFEST_H_
