// How long a step will take, from the op list of the plan and what somebody measured of a machine.
// Nothing runs.

#ifndef WORKER_PLAN_PREDICT_H_
#define WORKER_PLAN_PREDICT_H_

#include "absl/status/statusor.h"
#include "worker/plan/machine_rates.h"
#include "worker/plan/plan.h"

namespace vitscale {

// Of the slowest of `workers` equal workers: the one with the most micro-batches.
struct StepPrediction {
  int workers = 1;
  double micro_batch_seconds = 0;  // forward, loss and backward of one
  double backward_seconds = 0;     // of one, its last part
  double update_seconds = 0;       // optimizer and compute weights, the same for any number
  double wire_seconds = 0;         // all buckets one after the other
  double exposed_seconds = 0;      // what backward does not hide of them
  double seconds = 0;              // of the step
  double images_per_second = 0;    // of all workers
  double efficiency = 1;           // images_per_second over `workers` times that of one
};

// Rates that hold whatever the step is. FAILED_PRECONDITION when the machine was never measured in
// this precision, and for a plan of a card: the rates that the probe writes are those of CPUs.
class StepPredictor {
 public:
  static absl::StatusOr<StepPredictor> Create(const Plan& plan, const MachineRates& rates);

  // Buckets become ready one by one while the last backward runs and are summed one after the
  // other; `wire_bytes_per_second` of 0: those of the rates. With more than one worker and no rate
  // of the wire, `seconds` is 0.
  StepPrediction Predict(int workers, double wire_bytes_per_second = 0) const;

 private:
  StepPrediction Alone(int workers) const;

  int64_t batch_global_ = 0, batch_micro_ = 0;
  int64_t buckets_ = 1;
  double gradient_bytes_ = 0;
  double wire_bytes_per_second_ = 0;
  double forward_ = 0, backward_ = 0, update_ = 0;
};

}  // namespace vitscale

#endif  // WORKER_PLAN_PREDICT_H_
