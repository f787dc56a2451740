// The Fashion-MNIST job of deploy/jobs/fashion_mnist.yaml, in f32 on one rank, driven step by step
// with the engine's own parts: data set, order, flips, initial values, programs. What
// curve_study.py compares with an independent flax run.

#ifndef TESTS_GOLDEN_CURVE_RUN_H_
#define TESTS_GOLDEN_CURVE_RUN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/config/job_config.h"
#include "worker/data/sample_order.h"
#include "worker/data/source.h"
#include "worker/trainer/engine/replica.h"

namespace vitscale::golden {

inline constexpr char kFashionMnistRoot[] =
    "/usr/share/datasets";  // Debian package dataset-fashion-mnist

struct CurveStep {
  double loss = 0;               // mean over the images of the step
  std::vector<int64_t> samples;  // in the order of the batch
  std::vector<uint8_t> flips;    // 1 where the image is mirrored
};

class CurveRun {
 public:
  // NOT_FOUND where the data set is not installed.
  static absl::StatusOr<std::unique_ptr<CurveRun>> Open();

  // The next step.
  absl::StatusOr<CurveStep> Step();
  Replica& replica() { return *replica_; }

 private:
  CurveRun() = default;
  absl::Status Train(const BatchSequence& batches, CurveStep& step);

  JobConfig job_;
  RunLengths lengths_;
  std::unique_ptr<ImageSource> source_;
  std::unique_ptr<SampleOrder> order_;
  std::unique_ptr<Replica> replica_;
  int64_t step_ = 0;
};

}  // namespace vitscale::golden

#endif  // TESTS_GOLDEN_CURVE_RUN_H_
