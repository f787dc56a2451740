#include "worker/checkpoint/checkpoint_store.h"

#include <algorithm>
#include <tuple>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/hash.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/tombstone.h"

namespace vitscale {
namespace {

constexpr char kManifestName[] = "manifest.json";
constexpr char kProbePrefix[] = ".probe.";

std::string ProbeName(int64_t attempt, int64_t generation) {
  return absl::StrFormat("%sa%04d.g%04d", kProbePrefix, attempt, generation);
}

// The secret of a generation is not written down, only a hash of it.
std::string ProbeText(absl::string_view secret) {
  return absl::StrFormat("vitscale probe %016x\n", Hash64(secret));
}

// Makes a directory and its parents; each one that was missing is synced into its parent. Ranks may
// race.
absl::Status MakeDurably(FileSystem& fs, const std::string& path) {
  VITSCALE_ASSIGN_OR_RETURN(const bool there, fs.Exists(path));
  if (there) return absl::OkStatus();
  const std::string parent = DirectoryName(path);
  VITSCALE_RETURN_IF_ERROR(MakeDurably(fs, parent));
  const absl::Status made = fs.MakeDirectory(path);
  if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  return fs.SyncDirectory(parent);
}

absl::Status CheckFileSizes(FileSystem& fs, const std::string& path,
                            const CheckpointManifest& manifest) {
  for (const PartFile& file : manifest.files) {
    const auto info = fs.Stat(JoinPath(path, file.name));
    if (absl::IsNotFound(info.status())) {
      return absl::DataLossError(absl::StrCat("file '", file.name, "' is missing"));
    }
    if (!info.ok()) return info.status();
    if (info->bytes != file.bytes || !info->is_regular) {
      return absl::DataLossError(absl::StrCat("file '", file.name, "' has ", info->bytes,
                                              " bytes, the manifest says ", file.bytes));
    }
  }
  return absl::OkStatus();
}

// When something in the folder was last written to.
absl::Time LastWrite(FileSystem& fs, const std::string& path) {
  absl::Time last = absl::InfinitePast();
  if (const auto info = fs.Stat(path); info.ok()) last = info->modified;
  if (const auto names = fs.List(path); names.ok()) {
    for (const std::string& name : *names) {
      const auto info = fs.Stat(JoinPath(path, name));
      if (info.ok()) last = std::max(last, info->modified);
    }
  }
  return last;
}

// Greatest (lineage, step, attempt, generation) first; an ordinary one before an emergency one of
// the same state.
bool IsNewer(const CheckpointEntry& a, const CheckpointEntry& b) {
  const auto key = [](const CheckpointManifest& m) {
    return std::tuple(m.lineage, m.name.step, m.name.attempt, m.name.generation, !m.name.emergency);
  };
  return key(a.manifest) > key(b.manifest);
}

using Destinations = absl::flat_hash_map<std::string, TensorDestination>;

absl::Status CheckTarget(const TensorEntry& entry, const TensorTarget& target) {
  if (entry.dtype == target.dtype && entry.shape == target.shape) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor '", entry.name, "' is ", DTypeName(entry.dtype), " [",
                   absl::StrJoin(entry.shape, ", "), "], want ", DTypeName(target.dtype), " [",
                   absl::StrJoin(target.shape, ", "), "]"));
}

// Matches the tensors of all parts with the targets: one map per part.
absl::StatusOr<std::vector<Destinations>> MatchTargets(const std::vector<TensorFileReader>& parts,
                                                       const std::vector<TensorTarget>& targets,
                                                       ExtraTensors extra) {
  absl::flat_hash_map<std::string, const TensorTarget*> wanted;
  for (const TensorTarget& target : targets) wanted[target.name] = &target;
  std::vector<Destinations> destinations(parts.size());
  absl::flat_hash_set<std::string> found;
  for (size_t part = 0; part < parts.size(); ++part) {
    for (const TensorEntry& entry : parts[part].tensors()) {
      if (!found.insert(entry.name).second) {
        return absl::DataLossError(absl::StrCat("tensor '", entry.name, "' is in two parts"));
      }
      const auto target = wanted.find(entry.name);
      if (target != wanted.end()) {
        VITSCALE_RETURN_IF_ERROR(CheckTarget(entry, *target->second));
        destinations[part][entry.name] = {target->second->to, target->second->take};
      } else if (extra == ExtraTensors::kRefuse) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor '", entry.name, "' belongs to nothing in this job"));
      }
    }
  }
  for (const TensorTarget& target : targets) {
    if (found.count(target.name) == 0) {
      return absl::DataLossError(absl::StrCat("tensor '", target.name, "' is in no part"));
    }
  }
  return destinations;
}

}  // namespace

absl::StatusOr<CheckpointStore> CheckpointStore::Open(FileSystem& fs, const std::string& directory,
                                                      const std::string& job_id) {
  if (job_id.empty() || job_id[0] == '.' || absl::StrContains(job_id, "/")) {
    return absl::InvalidArgumentError(absl::StrCat("job id '", job_id, "' is no file name"));
  }
  CheckpointStore store(fs, directory, job_id);
  VITSCALE_RETURN_IF_ERROR(
      Annotate(MakeDurably(fs, store.JobPath()), "checkpoint.dir cannot be written to"));
  return store;
}

std::string CheckpointStore::JobPath() const { return JoinPath(directory_, job_id_); }
std::string CheckpointStore::PathOf(const CheckpointName& name) const {
  return JoinPath(JobPath(), name.Text());
}
std::string CheckpointStore::IdOf(const CheckpointName& name) const {
  return CheckpointId(job_id_, name);
}

// ---- the shared folder ---------------------------------------------------------

absl::Status CheckpointStore::WriteProbe(int64_t attempt, int64_t generation,
                                         absl::string_view secret) {
  const std::string name = ProbeName(attempt, generation);
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs_->List(JobPath()));
  for (const std::string& other : names) {  // of generations that ended without removing theirs
    if (absl::StartsWith(other, kProbePrefix) && other < name) {
      (void)fs_->Remove(JoinPath(JobPath(), other));
    }
  }
  return Annotate(WriteFileAtomically(*fs_, JoinPath(JobPath(), name), ProbeText(secret)),
                  "checkpoint.dir cannot be written to");
}

absl::Status CheckpointStore::ReadProbe(int64_t attempt, int64_t generation,
                                        absl::string_view secret) {
  const std::string path = JoinPath(JobPath(), ProbeName(attempt, generation));
  const auto text = fs_->ReadFile(path, 1024);
  if (text.ok() && *text == ProbeText(secret)) return absl::OkStatus();
  if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
  return absl::FailedPreconditionError(absl::StrCat(
      "checkpoint folder '", JobPath(), "' is not shared: the probe file of rank 0 is ",
      text.ok() ? "another generation's" : "not there"));
}

absl::Status CheckpointStore::RemoveProbe(int64_t attempt, int64_t generation) {
  const absl::Status removed = fs_->Remove(JoinPath(JobPath(), ProbeName(attempt, generation)));
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

// ---- saving --------------------------------------------------------------------

absl::Status CheckpointStore::Begin(const CheckpointName& name) {
  const absl::Status made = fs_->MakeDirectory(PathOf(name));
  if (made.ok()) return fs_->SyncDirectory(JobPath());
  if (!absl::IsAlreadyExists(made)) return made;
  VITSCALE_ASSIGN_OR_RETURN(const bool complete,
                            fs_->Exists(JoinPath(PathOf(name), kManifestName)));
  if (!complete) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat("checkpoint ", IdOf(name), " is complete already"));
}

absl::StatusOr<PartFile> CheckpointStore::WritePart(const CheckpointName& name, int rank,
                                                    int world_size,
                                                    const std::vector<NamedTensor>& tensors) {
  const std::string file_name = PartFileName(rank, world_size);
  const std::string path = JoinPath(PathOf(name), file_name);
  const std::map<std::string, std::string> metadata = {
      {"format", "vitscale"},
      {"checkpoint", IdOf(name)},
      {"part", absl::StrCat(rank, "/", world_size)}};
  auto summary = WriteTensorFile(*fs_, path, tensors, metadata);
  absl::Status status = summary.status();
  if (status.ok()) status = fs_->SyncDirectory(PathOf(name));
  if (!status.ok()) {
    if (!absl::IsAlreadyExists(status)) (void)fs_->Remove(path);  // never another's file
    return Annotate(status, absl::StrCat("save checkpoint ", IdOf(name)));
  }
  return PartFile{file_name, summary->bytes, summary->crc32c};
}

absl::Status CheckpointStore::WriteManifest(const CheckpointManifest& manifest) {
  const std::string path = PathOf(manifest.name);
  const std::string noun = absl::StrCat("save checkpoint ", IdOf(manifest.name));
  VITSCALE_CHECK(manifest.job_id == job_id_) << manifest.job_id << " is not " << job_id_;
  VITSCALE_RETURN_IF_ERROR(Annotate(CheckFileSizes(*fs_, path, manifest), noun));
  VITSCALE_ASSIGN_OR_RETURN(const bool complete, fs_->Exists(JoinPath(path, kManifestName)));
  if (complete) return absl::AlreadyExistsError(absl::StrCat(noun, ": it is complete already"));
  VITSCALE_RETURN_IF_ERROR(Annotate(
      WriteFileAtomically(*fs_, JoinPath(path, kManifestName), ManifestToJson(manifest)), noun));
  return Annotate(fs_->SyncDirectory(JobPath()), noun);
}

absl::Status CheckpointStore::Discard(const CheckpointName& name) {
  VITSCALE_ASSIGN_OR_RETURN(const bool complete,
                            fs_->Exists(JoinPath(PathOf(name), kManifestName)));
  if (complete) {
    return absl::FailedPreconditionError(
        absl::StrCat("checkpoint ", IdOf(name), " is complete: not discarded"));
  }
  return RemoveTree(*fs_, PathOf(name));
}

// ---- finding -------------------------------------------------------------------

absl::StatusOr<CheckpointManifest> CheckpointStore::ReadManifest(const CheckpointName& name) const {
  const std::string path = JoinPath(PathOf(name), kManifestName);
  VITSCALE_ASSIGN_OR_RETURN(const std::string text, fs_->ReadFile(path, kManifestBytesMax));
  VITSCALE_ASSIGN_OR_RETURN(CheckpointManifest manifest, ManifestFromJson(text));
  if (manifest.name != name || manifest.job_id != job_id_) {
    return absl::DataLossError(absl::StrCat("manifest is that of checkpoint ",
                                            CheckpointId(manifest.job_id, manifest.name)));
  }
  VITSCALE_RETURN_IF_ERROR(CheckFileSizes(*fs_, PathOf(name), manifest));
  return manifest;
}

absl::StatusOr<CheckpointListing> CheckpointStore::List() const {
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<std::string> names, fs_->List(JobPath()));
  CheckpointListing listing;
  VITSCALE_ASSIGN_OR_RETURN(listing.tombstones, ReadTombstones(names));
  for (const std::string& text : names) {
    const auto name = CheckpointName::Parse(text);
    if (!name.ok()) continue;
    const std::string path = PathOf(*name);
    auto manifest = ReadManifest(*name);
    if (manifest.ok()) {
      const bool abandoned = IsAbandoned(*manifest, listing.tombstones);
      listing.valid.push_back({IdOf(*name), path, *std::move(manifest), abandoned});
      continue;
    }
    const bool no_manifest = absl::IsNotFound(manifest.status());
    const std::string reason =
        no_manifest ? "no manifest" : std::string(manifest.status().message());
    listing.incomplete.push_back({*name, path, reason, !no_manifest, LastWrite(*fs_, path)});
  }
  std::sort(listing.valid.begin(), listing.valid.end(), IsNewer);
  return listing;
}

absl::StatusOr<std::vector<CheckpointEntry>> CheckpointStore::Usable() const {
  VITSCALE_ASSIGN_OR_RETURN(CheckpointListing listing, List());
  std::erase_if(listing.valid, [](const CheckpointEntry& entry) { return entry.abandoned; });
  return std::move(listing.valid);
}

// ---- reading -------------------------------------------------------------------

absl::Status CheckpointStore::Verify(const CheckpointName& name) const {
  return Read(name, {}, ExtraTensors::kIgnore);
}

absl::Status CheckpointStore::Read(const CheckpointName& name,
                                   const std::vector<TensorTarget>& targets,
                                   ExtraTensors extra) const {
  const absl::Status status = [&]() -> absl::Status {
    VITSCALE_ASSIGN_OR_RETURN(const CheckpointManifest manifest, ReadManifest(name));
    std::vector<TensorFileReader> parts;
    for (const PartFile& file : manifest.files) {
      VITSCALE_ASSIGN_OR_RETURN(TensorFileReader part,
                                TensorFileReader::Open(*fs_, JoinPath(PathOf(name), file.name)));
      parts.push_back(std::move(part));
    }
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<Destinations> destinations,
                              MatchTargets(parts, targets, extra));
    for (size_t i = 0; i < parts.size(); ++i) {
      const PartFile& file = manifest.files[i];
      VITSCALE_ASSIGN_OR_RETURN(const uint32_t crc, parts[i].ReadWhole(destinations[i]));
      if (crc == file.crc32c) continue;
      return absl::DataLossError(
          absl::StrFormat("file '%s': crc32c is %08x, want %08x", file.name, crc, file.crc32c));
    }
    return absl::OkStatus();
  }();
  return Annotate(status, absl::StrCat("checkpoint ", IdOf(name)));
}

absl::Status CheckpointStore::SetAside(const CheckpointName& name) {
  constexpr int kMostOfOneName = 100;
  const std::string base = JoinPath(JobPath(), absl::StrCat("bad.", name.Text()));
  for (int i = 0; i < kMostOfOneName; ++i) {
    const std::string to = i == 0 ? base : absl::StrCat(base, ".", i);
    VITSCALE_ASSIGN_OR_RETURN(const bool taken, fs_->Exists(to));
    if (taken) continue;
    VITSCALE_RETURN_IF_ERROR(fs_->Rename(PathOf(name), to));
    return fs_->SyncDirectory(JobPath());
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("'", base, "' is there ", kMostOfOneName, " times"));
}

// ---- roll-back and retention ---------------------------------------------------

absl::StatusOr<std::vector<LineageTombstone>> CheckpointStore::ReadTombstones(
    const std::vector<std::string>& names) const {
  constexpr int64_t kTombstoneBytesMax = 1 << 16;
  std::vector<LineageTombstone> tombstones;
  for (const std::string& name : names) {
    if (!IsTombstoneName(name)) continue;
    const std::string path = JoinPath(JobPath(), name);
    VITSCALE_ASSIGN_OR_RETURN(const std::string text, fs_->ReadFile(path, kTombstoneBytesMax));
    auto tombstone = TombstoneFromJson(text);
    if (!tombstone.ok()) return Annotate(tombstone.status(), absl::StrCat("'", path, "'"));
    if (TombstoneName(tombstone->lineage) != name) {
      return absl::DataLossError(absl::StrCat("'", path, "': is of lineage ", tombstone->lineage));
    }
    tombstones.push_back(*std::move(tombstone));
  }
  std::sort(tombstones.begin(), tombstones.end(),
            [](const auto& a, const auto& b) { return a.lineage < b.lineage; });
  return tombstones;
}

absl::Status CheckpointStore::OpenLineage(int64_t lineage, const CheckpointEntry* parent,
                                          absl::Time now) {
  LineageTombstone wanted{lineage, 0, "", now};
  if (parent != nullptr) {
    wanted.step = parent->manifest.name.step;
    wanted.parent = parent->id;
  }
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointListing listing, List());
  for (const LineageTombstone& there : listing.tombstones) {
    if (there.lineage < lineage) continue;
    const bool same =
        there.lineage == lineage && there.step == wanted.step && there.parent == wanted.parent;
    if (same) return fs_->SyncDirectory(JobPath());  // its writer may have died before its own sync
    return absl::AlreadyExistsError(absl::StrCat("open lineage ", lineage, " of job ", job_id_,
                                                 ": lineage ", there.lineage, " was opened from '",
                                                 there.parent, "' after step ", there.step));
  }
  return WriteFileAtomically(*fs_, JoinPath(JobPath(), TombstoneName(lineage)),
                             TombstoneToJson(wanted));
}

// The manifest goes first and durably: a crash then leaves a folder that counts for nothing, never
// a checkpoint whose files are missing.
absl::Status CheckpointStore::RemoveCheckpoint(const CheckpointName& name) {
  const std::string path = PathOf(name);
  const absl::Status removed = fs_->Remove(JoinPath(path, kManifestName));
  if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  if (removed.ok()) VITSCALE_RETURN_IF_ERROR(fs_->SyncDirectory(path));
  return RemoveTree(*fs_, path);
}

absl::StatusOr<std::vector<std::string>> CheckpointStore::Retain(const RetentionRequest& request) {
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointListing listing, List());
  std::vector<std::string> removed;
  absl::Status first_error;
  for (const CheckpointName& name : ChooseRemovals(listing, request, job_id_)) {
    const absl::Status status =
        Annotate(RemoveCheckpoint(name), absl::StrCat("remove checkpoint ", IdOf(name)));
    if (status.ok()) {
      removed.push_back(IdOf(name));
    } else {
      first_error.Update(status);
    }
  }
  if (!removed.empty()) first_error.Update(fs_->SyncDirectory(JobPath()));
  if (!first_error.ok()) return first_error;
  return removed;
}

}  // namespace vitscale
