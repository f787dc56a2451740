// The preprocessing of a job file: ops joined by "|".
//
//   op                 meaning
//   value_range(lo,hi)  the last op; pixel p becomes lo + p / 255 * (hi - lo); default
//   value_range(-1,1) flip_lr             left-right flip with probability 1/2; random, training
//   only
//
// Names and meaning follow big_vision's pp strings (pp/ops_general.py, pp/ops_image.py). Pixels
// stay bytes on the host; flip and range are applied by the device's ImagesToPatches.

#ifndef WORKER_DATA_PREPROCESS_H_
#define WORKER_DATA_PREPROCESS_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

struct Preprocess {
  bool flip_lr = false;
  float range_min = -1.0f, range_max = 1.0f;

  bool operator==(const Preprocess&) const = default;
};

enum class PreprocessUse {
  kTrain,
  kEval,           // random ops are an error
  kEvalFromTrain,  // the training data's text: random ops are dropped
};

// Empty text is the default. INVALID_ARGUMENT names the op: unknown op "x" (with "did you mean"),
// wrong arguments, an op given twice, value_range not last, a random op for an evaluation.
absl::StatusOr<Preprocess> ParsePreprocess(absl::string_view text, PreprocessUse use);

}  // namespace vitscale

#endif  // WORKER_DATA_PREPROCESS_H_
