// Snapshots, manifests, and the emergency checkpoint of an orphan. See engine.h.

#include <memory>
#include <utility>

#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "worker/trainer/engine/engine.h"

namespace vitscale {

// This rank's share of the state, copied: training goes on while it is written.
absl::StatusOr<std::vector<SnapshotTensor>> Engine::CopyShare(int rank, int world_size) {
  std::vector<StateTensor> state = replica_->State();
  std::vector<int64_t> bytes;
  for (const StateTensor& tensor : state) bytes.push_back(tensor.view.bytes());
  const std::vector<int> owners = ShareParts(bytes, world_size);
  std::vector<SnapshotTensor> share;
  for (size_t i = 0; i < state.size(); ++i) {
    if (owners[i] != rank) continue;
    SnapshotTensor copy{std::move(state[i].name), state[i].view.dtype, state[i].view.shape,
                        bytes[i], std::make_unique_for_overwrite<std::byte[]>(bytes[i])};
    VITSCALE_RETURN_IF_ERROR(
        replica_->ReadState(state[i], 0, absl::MakeSpan(copy.data.get(), copy.bytes)));
    share.push_back(std::move(copy));
  }
  return share;
}

CoreEvent Engine::DoSnapshot(const SnapshotOp& op) {
  const int world_size = collective()->world_size();
  CheckpointWriter::Part part;
  part.name = CheckpointName{generation_.attempt, op.generation, op.step, false};
  part.rank = generation_.rank;
  part.world_size = world_size;
  auto share = CopyShare(generation_.rank, world_size);
  SnapshotTaken done;
  if (!share.ok()) {
    static_cast<Outcome&>(done) = {Annotate(share.status(), "snapshot"), Fault::kDevice, {}};
    return done;
  }
  part.tensors = *std::move(share);
  writer_->WritePart(std::move(part));
  return done;
}

CheckpointManifest Engine::ManifestFor(const CheckpointName& name, uint64_t digest) const {
  CheckpointManifest manifest;
  manifest.job_id = job_id_;
  manifest.name = name;
  manifest.lineage = generation_.lineage;
  manifest.parent = parent_;
  manifest.images = name.step * job_.batch_global;
  manifest.digest = digest;
  manifest.seed = job_.seed;
  manifest.train_images = train_->size();
  manifest.class_names = ClassNamesHash(*train_);
  manifest.plan_hash = replica_->plan().hash;
  manifest.numerics = Numerics();
  manifest.spec = job_.canonical_text;
  manifest.version = VersionText();
  return manifest;
}

void Engine::WriteManifest(const WriteManifestNote& note) {
  CheckpointWriter::Manifest job;
  job.manifest = ManifestFor({generation_.attempt, note.generation, note.step, false}, note.digest);
  job.manifest.final = note.final;
  const int world_size = static_cast<int>(note.part_bytes.size());
  for (int rank = 0; rank < world_size; ++rank) {
    job.manifest.files.push_back(
        {PartFileName(rank, world_size), note.part_bytes[rank], note.part_crc32c[rank]});
  }
  job.retention.attempt = generation_.attempt;
  job.retention.generation = note.generation;
  job.retention.keep_last = job_.checkpoint.keep_last;
  job.retention.keep_every_steps = lengths_.keep_every;
  job.retention.pinned.insert(note.pinned.begin(), note.pinned.end());
  writer_->WriteManifest(std::move(job));
}

void Engine::AbandonSave(const AbandonSaveNote& note) {
  writer_->AbandonSave({generation_.attempt, note.generation, note.step, false}, note.discard);
}

// The whole state by this rank alone, under a name that no generation uses. Nothing else is
// touched.
CoreEvent Engine::DoEmergencySave(const EmergencySaveOp& op) {
  EmergencySaved done;
  const CheckpointName name{generation_.attempt, generation_.generation, op.step, true};
  const auto save = [&]() -> absl::Status {
    writer_->Flush();
    VITSCALE_ASSIGN_OR_RETURN(const uint64_t digest, replica_->Digest());
    VITSCALE_RETURN_IF_ERROR(store_->Begin(name));
    VITSCALE_ASSIGN_OR_RETURN(PartFile file,
                              store_->WritePart(name, 0, 1, replica_->StateSources()));
    CheckpointManifest manifest = ManifestFor(name, digest);
    manifest.files.push_back(std::move(file));
    manifest.time = options_.clock->Now();
    VITSCALE_RETURN_IF_ERROR(store_->WriteManifest(manifest));
    done.checkpoint = InfoOf(manifest, store_->PathOf(name));
    return absl::OkStatus();
  };
  // Another survivor of the generation holds the same bits: whoever comes first saves for all.
  if (absl::Status status = save(); !status.ok() && !absl::IsAlreadyExists(status)) {
    static_cast<Outcome&>(done) = {Annotate(status, "emergency checkpoint"), Fault::kStorage, {}};
  }
  return done;
}

}  // namespace vitscale
