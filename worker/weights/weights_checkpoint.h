// Weights as a checkpoint folder, and back.

#ifndef WORKER_WEIGHTS_WEIGHTS_CHECKPOINT_H_
#define WORKER_WEIGHTS_WEIGHTS_CHECKPOINT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/checkpoint/checkpoint_store.h"
#include "worker/weights/weights.h"

namespace vitscale {

// Writes "<directory>/<id>/a0000.g0000.step_000000000": the parameters in one part, and a manifest
// with weights_only, `spec` and digest 0 (not computed). On error nothing of it is left. Returns
// the folder's path. ALREADY_EXISTS when the id is taken.
absl::StatusOr<std::string> WriteWeightsCheckpoint(FileSystem& fs, const std::string& directory,
                                                   const std::string& id, const Weights& weights,
                                                   const std::string& spec, absl::Time now);

// The parameters of any checkpoint, checksums compared. `model` is that of the manifest's spec.
absl::StatusOr<Weights> ReadWeightsCheckpoint(const CheckpointStore& store,
                                              const CheckpointName& name, const ModelConfig& model);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_WEIGHTS_CHECKPOINT_H_
