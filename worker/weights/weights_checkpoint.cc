#include "worker/weights/weights_checkpoint.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"

namespace vitscale {
namespace {

absl::Status Write(CheckpointStore& store, CheckpointManifest manifest, const Weights& weights) {
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : weights.table.parameters()) {
    const absl::Span<const float> values = weights.Of(p);
    tensors.push_back(
        {absl::StrCat(kParameterPrefix, p.name),
         DType::kF32,
         p.shape,
         {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)}});
  }
  VITSCALE_RETURN_IF_ERROR(store.Begin(manifest.name));
  VITSCALE_ASSIGN_OR_RETURN(PartFile part, store.WritePart(manifest.name, 0, 1, tensors));
  manifest.files.push_back(std::move(part));
  return store.WriteManifest(manifest);
}

}  // namespace

absl::StatusOr<std::string> WriteWeightsCheckpoint(FileSystem& fs, const std::string& directory,
                                                   const std::string& id, const Weights& weights,
                                                   const std::string& spec, absl::Time now) {
  VITSCALE_ASSIGN_OR_RETURN(const bool taken, fs.Exists(JoinPath(directory, id)));
  if (taken)
    return absl::AlreadyExistsError(absl::StrCat("'", directory, "' has '", id, "' already"));
  VITSCALE_ASSIGN_OR_RETURN(CheckpointStore store, CheckpointStore::Open(fs, directory, id));
  CheckpointManifest manifest;
  manifest.job_id = id;
  manifest.spec = spec;
  manifest.version = VersionText();
  manifest.weights_only = true;
  manifest.time = now;
  const std::string path = store.PathOf(manifest.name);
  if (absl::Status status = Write(store, std::move(manifest), weights); !status.ok()) {
    (void)RemoveTree(fs, store.JobPath());
    return status;
  }
  return path;
}

absl::StatusOr<Weights> ReadWeightsCheckpoint(const CheckpointStore& store,
                                              const CheckpointName& name,
                                              const ModelConfig& model) {
  Weights weights(model);
  std::vector<TensorTarget> targets;
  for (const Parameter& p : weights.table.parameters()) {
    const absl::Span<float> values = weights.Of(p);
    targets.push_back(
        {absl::StrCat(kParameterPrefix, p.name),
         DType::kF32,
         p.shape,
         {reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(float)}});
  }
  VITSCALE_RETURN_IF_ERROR(store.Read(name, targets, ExtraTensors::kIgnore));
  return weights;
}

}  // namespace vitscale
