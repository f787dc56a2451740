// A checkpoint's folder as text: what it is, what is in it. No I/O.

#ifndef CLIENT_CHECKPOINT_TEXT_H_
#define CLIENT_CHECKPOINT_TEXT_H_

#include <optional>
#include <string>
#include <vector>

#include "vitscale/v1/job_spec.pb.h"
#include "worker/checkpoint/checkpoint_folder.h"
#include "worker/checkpoint/manifest.h"
#include "worker/model/model_config.h"

namespace vitscale {

// "S/16, image 224, map head, 1,000 classes, sigmoid, learned positions"; a custom shape in full.
std::string ModelText(const ModelConfig& model);
// The model as a job file says it: by variant where one has the shape.
v1::Model ModelSpec(const ModelConfig& model);

struct CheckpointView {
  std::string path;
  CheckpointManifest manifest;
  std::optional<ModelConfig> model;  // of the manifest's spec; none if that cannot be read
  std::vector<TensorEntry> tensors;
};

// A line for each fact; then, with `tensors`, one for each tensor; then, with `spec`, the job file.
std::string CheckpointText(const CheckpointView& view, bool tensors, bool spec);
std::string CheckpointJson(const CheckpointView& view);

}  // namespace vitscale

#endif  // CLIENT_CHECKPOINT_TEXT_H_
