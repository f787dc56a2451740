// vitscale-bench step: times whole steps (forward, loss, backward, update, weight copies) of one
// replica.

#ifndef WORKER_BENCH_STEP_BENCH_H_
#define WORKER_BENCH_STEP_BENCH_H_

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

// Keys: those of Describe, and step_seconds (median), step_seconds_min, _max, images_per_second,
// gflops, ceiling_gflops, ceiling_share, phases (seconds by phase, medians), loss, resident_bytes.
absl::StatusOr<nlohmann::json> BenchStep(const BenchOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_STEP_BENCH_H_
