// Faults that a test asks for, at named points of a trainer. Empty in production.
//
//   kill@step=12                    SIGKILL before part 1 of the step that makes 12
//   fail_collective@step=3,bucket=1 the collective fails when bucket 1 of step 3 is ready
//   kill@checkpoint_part            after a part is written, before it is reported durable
//   kill@before_manifest            all parts durable, manifest not written
//   nan@step=5,rank=1               a gradient of rank 1 in step 5 is not a number; nan_loss: its
//   loss fail_storage@snapshot,step=30   the part of the checkpoint after 30 steps cannot be
//   written stop@exchange,step=7            SIGSTOP before the exchange of step 7
//
// Several are joined by ";". A condition is a point's name, or step=, bucket=, rank= or generation=
// with a number; all must hold. Without a name the point is `bucket` where one is given, `exchange`
// for fail_collective, else `step`. Each fault happens once in the life of a process. Points, in
// the order of a step: prepare, synchronise, step, bucket, exchange, gate, applied, snapshot,
// checkpoint_part, before_manifest, after_manifest, evaluate.

#ifndef WORKER_TRAINER_ENGINE_FAULTS_H_
#define WORKER_TRAINER_ENGINE_FAULTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace vitscale {

class Faults {
 public:
  // INVALID_ARGUMENT names the fault that is not understood. Adds to what is there.
  absl::Status Parse(absl::string_view text);

  // Where a trainer is: values that conditions are compared with; absent ones match no condition.
  struct Place {
    int64_t step = -1;
    int64_t bucket = -1;
    int64_t rank = -1;
    int64_t generation = -1;
  };
  // Kills or stops the process if a fault says so; true if it is to fail here by itself
  // (fail_collective, nan, …) with that action. Thread-safe.
  bool At(absl::string_view point, const Place& place, absl::string_view action = "");

 private:
  struct Fault {
    std::string action, point;
    std::map<std::string, int64_t> conditions;
    bool done = false;
  };
  static bool Matches(const Fault& fault, absl::string_view point, const Place& place);

  absl::Mutex mutex_;
  std::vector<Fault> faults_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_ENGINE_FAULTS_H_
