// What evaluations want of a model: it runs one batch. The trainer's replica is both.

#ifndef WORKER_EVAL_EVAL_MODEL_H_
#define WORKER_EVAL_EVAL_MODEL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/data/loader.h"

namespace vitscale {

struct EvalSums {
  double loss = 0;  // over images with weight 1
  int64_t correct = 0;
};

// The job's own head.
class EvalModel {
 public:
  virtual ~EvalModel() = default;
  virtual absl::StatusOr<EvalSums> Evaluate(const Batch& batch) = 0;
};

// The representation that the head would see.
class FeatureModel {
 public:
  virtual ~FeatureModel() = default;
  virtual int64_t feature_width() const = 0;
  // [batch, feature_width], padding included. What an image's features are must not depend on the
  // other images of the batch.
  virtual absl::Status Features(const Batch& batch, absl::Span<float> features) = 0;
};

}  // namespace vitscale

#endif  // WORKER_EVAL_EVAL_MODEL_H_
