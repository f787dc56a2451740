// The checkpoints of one job: <dir>/<job id>/a0003.g0007.step_000001000/ with parts and manifest.
//
// A save, on every rank:
//   1. Begin(name) makes the folder; a rank that comes second finds it.
//   2. WritePart(name, …) writes this rank's file, which must not exist, and syncs file and folder:
//      now it is durable.
//   3. When a later exchange shows that all parts are durable, the lowest rank calls WriteManifest:
//      temporary, sync, rename, sync folder, sync parent. Only now the checkpoint exists.
// A crash at any point leaves all earlier checkpoints as they were, and at worst a folder without
// manifest, which counts for nothing and which retention removes once it is older than the orphan
// window.
//
// There is no pointer to the latest one: List() orders by (lineage, step, attempt, generation).
// Only a rank of the current generation may call WriteManifest, Retain, OpenLineage, SetAside or
// Discard; the caller sees to that. Thread-safe in so far as the file system is: no state is kept
// between calls.

#ifndef WORKER_CHECKPOINT_CHECKPOINT_STORE_H_
#define WORKER_CHECKPOINT_CHECKPOINT_STORE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/base/files.h"
#include "worker/checkpoint/checkpoint_name.h"
#include "worker/checkpoint/manifest.h"
#include "worker/checkpoint/retention.h"
#include "worker/checkpoint/tensor_file.h"

namespace vitscale {

// A tensor wanted back. `to` has exactly the bytes of dtype and shape; or `take` gets them in
// pieces, where the host cannot address the tensor.
struct TensorTarget {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  absl::Span<std::byte> to;
  PieceTaker take = {};
};

enum class ExtraTensors { kRefuse, kIgnore };  // tensors of a checkpoint that nobody asked for

class CheckpointStore {
 public:
  // `directory` is the resolved folder of checkpoint.dir (ResolveBelow with the worker's checkpoint
  // roots); it and the job's folder in it are made if missing, durably.
  static absl::StatusOr<CheckpointStore> Open(FileSystem& fs, const std::string& directory,
                                              const std::string& job_id);

  const std::string& job_id() const { return job_id_; }
  std::string JobPath() const;                           // <dir>/<job id>
  std::string PathOf(const CheckpointName& name) const;  // <dir>/<job id>/<name>
  std::string IdOf(const CheckpointName& name) const;    // <job id>/<name>

  // ---- the shared folder -------------------------------------------------------
  // At the start of a generation the lowest rank writes a probe with a secret of the generation and
  // every rank reads it. ReadProbe: FAILED_PRECONDITION "checkpoint folder '…' is not shared: …" if
  // it is missing or another's.
  absl::Status WriteProbe(int64_t attempt, int64_t generation, absl::string_view secret);
  absl::Status ReadProbe(int64_t attempt, int64_t generation, absl::string_view secret);
  absl::Status RemoveProbe(int64_t attempt, int64_t generation);

  // ---- saving ------------------------------------------------------------------
  // ALREADY_EXISTS if a manifest is there: a complete checkpoint is never written into.
  absl::Status Begin(const CheckpointName& name);
  // Removes its own unfinished file when it fails, so that a full disk gets its space back.
  absl::StatusOr<PartFile> WritePart(const CheckpointName& name, int rank, int world_size,
                                     const std::vector<NamedTensor>& tensors);
  // Checks first that every file of the manifest is there with the size that it states.
  absl::Status WriteManifest(const CheckpointManifest& manifest);
  // Removes what an abandoned save left; FAILED_PRECONDITION if it has a manifest.
  absl::Status Discard(const CheckpointName& name);

  // ---- finding -----------------------------------------------------------------
  // Everything in the job's folder; reads manifests and file sizes, not the parts.
  absl::StatusOr<CheckpointListing> List() const;
  // Valid and not abandoned, newest first: List().valid without the abandoned ones.
  absl::StatusOr<std::vector<CheckpointEntry>> Usable() const;
  // The manifest of one checkpoint, with sizes of its files checked. NOT_FOUND, DATA_LOSS.
  absl::StatusOr<CheckpointManifest> ReadManifest(const CheckpointName& name) const;

  // ---- reading -----------------------------------------------------------------
  // Reads every file once, front to back, and compares its CRC32C. DATA_LOSS names file, checksum
  // and what it should be.
  absl::Status Verify(const CheckpointName& name) const;
  // The same, and puts the tensors where `targets` say. Before anything is written it is checked
  // that each target is there exactly once with its dtype and shape (DATA_LOSS, or INVALID_ARGUMENT
  // for a tensor of another shape) and, with kRefuse, that nothing else is. After an error during
  // reading the targets' bytes are unspecified. Errors of `take` keep their code.
  absl::Status Read(const CheckpointName& name, const std::vector<TensorTarget>& targets,
                    ExtraTensors extra = ExtraTensors::kRefuse) const;
  // Renames a checkpoint whose bytes are bad to "bad.<name>[.<n>]": kept for people, found by
  // nobody.
  absl::Status SetAside(const CheckpointName& name);

  // ---- roll-back and retention -------------------------------------------------
  // Writes the tombstone that opens `lineage` from `parent` (null: from initialisation): every
  // checkpoint of a smaller lineage with more steps than the parent is abandoned from now on.
  // ALREADY_EXISTS unless the lineage is new; an identical tombstone is OK, so that a restarted
  // rank may repeat the call.
  absl::Status OpenLineage(int64_t lineage, const CheckpointEntry* parent, absl::Time now);
  // Lists anew, asks ChooseRemovals (retention.h) and removes, manifest first. Returns the ids
  // removed.
  absl::StatusOr<std::vector<std::string>> Retain(const RetentionRequest& request);

 private:
  CheckpointStore(FileSystem& fs, std::string directory, std::string job_id)
      : fs_(&fs), directory_(std::move(directory)), job_id_(std::move(job_id)) {}

  absl::Status RemoveCheckpoint(const CheckpointName& name);
  absl::StatusOr<std::vector<LineageTombstone>> ReadTombstones(
      const std::vector<std::string>& names) const;

  FileSystem* fs_;
  std::string directory_;
  std::string job_id_;
};

// The names under which state is stored: "params/<name>", "momentum/<name>",
// "second_moment/<name>", "average/<name>".
inline constexpr char kParameterPrefix[] = "params/";
inline constexpr char kMomentumPrefix[] = "momentum/";
inline constexpr char kSecondMomentPrefix[] = "second_moment/";
inline constexpr char kAveragePrefix[] = "average/";

// Which rank writes which tensor: tensors stay whole, and each in turn, largest first, goes to the
// rank with the fewest bytes so far. Returns one rank per entry of `tensor_bytes`; a pure function
// of its arguments.
std::vector<int> ShareParts(const std::vector<int64_t>& tensor_bytes, int world_size);

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_CHECKPOINT_STORE_H_
