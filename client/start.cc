#include "client/start.h"

#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/command.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "proto/spec/checkpoint_ref.h"
#include "proto/spec/job_spec.h"
#include "worker/checkpoint/manifest.h"

namespace vitscale {
namespace {

// Of a checkpoint folder that can be seen from here.
std::optional<CheckpointManifest> LocalManifest(const std::string& folder) {
  if (!absl::StrContains(folder, '/')) return std::nullopt;
  const auto text =
      PosixFileSystem().ReadFile(JoinPath(folder, "manifest.json"), kManifestBytesMax);
  if (!text.ok()) return std::nullopt;
  auto manifest = ManifestFromJson(*text);
  if (!manifest.ok()) return std::nullopt;
  return *std::move(manifest);
}

// The coordinator knows that very folder, not one that it was copied from.
bool IsThatOfTheJob(ControlClient& client, const CheckpointManifest& manifest,
                    const std::string& path) {
  v1::ListCheckpointsRequest request;
  request.set_job_id(manifest.job_id);
  const auto known = client.ListCheckpoints(request);
  if (!known.ok()) return false;
  const std::string id = CheckpointId(manifest.job_id, manifest.name);
  for (const v1::CheckpointInfo& info : known->checkpoints()) {
    std::error_code error;
    if (info.id() != id || info.deleted()) continue;
    return std::filesystem::weakly_canonical(info.path(), error).string() == path;
  }
  return false;
}

}  // namespace

bool IsImported(const std::string& checkpoint) {
  const auto manifest = LocalManifest(checkpoint);
  return manifest.has_value() && manifest->weights_only;
}

std::string FromOf(ControlClient& client, const std::string& checkpoint) {
  const auto manifest = LocalManifest(checkpoint);
  if (!manifest) return checkpoint;
  std::error_code error;
  const std::string path = std::filesystem::canonical(checkpoint, error).string();
  if (error) return checkpoint;
  return IsThatOfTheJob(client, *manifest, path) ? CheckpointId(manifest->job_id, manifest->name)
                                                 : path;
}

absl::StatusOr<v1::JobSpec> SpecBehind(ControlClient& client, const std::string& checkpoint) {
  if (const auto manifest = LocalManifest(checkpoint)) {
    auto spec = ParseJobSpec(manifest->spec, SpecFormat::kYaml);
    if (spec.ok()) return spec;
    return Annotate(spec.status(), absl::StrCat("the job file in '", checkpoint, "'"));
  }
  const auto from = ParseCheckpointRef(checkpoint);
  if (!from.ok()) return Annotate(from.status(), "checkpoint");
  const auto job = FetchJob(client, from->job);
  if (absl::IsNotFound(job.status())) {
    return absl::NotFoundError(
        absl::StrCat("checkpoint '", checkpoint, "': the coordinator knows no job '", from->job,
                     "' and there is no such folder here: give a job file, too"));
  }
  if (!job.ok()) return job.status();
  return job->spec();
}

std::string NameAfter(const std::string& run, const std::string& what) {
  constexpr size_t kNameMax = 63;
  const std::string ending = absl::StrCat("-", what);
  if (absl::EndsWith(run, ending)) return run;
  return absl::StrCat(run.substr(0, kNameMax - ending.size()), ending);
}

}  // namespace vitscale
