// Preprocessing text as the engine's struct.

#ifndef WORKER_CONFIG_PREPROCESS_CONFIG_H_
#define WORKER_CONFIG_PREPROCESS_CONFIG_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/data_config.h"

namespace vitscale {

// Errors: those of ParsePreprocessOps (proto/spec/preprocess.h). Without value_range the range is
// [-1, 1].
absl::StatusOr<Preprocess> PreprocessFromText(absl::string_view text);

}  // namespace vitscale

#endif  // WORKER_CONFIG_PREPROCESS_CONFIG_H_
