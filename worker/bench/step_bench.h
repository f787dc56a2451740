// vitscale-bench step: times whole steps (forward, loss, backward, update, weight copies) of one
// replica.

#ifndef WORKER_BENCH_STEP_BENCH_H_
#define WORKER_BENCH_STEP_BENCH_H_

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

// Keys: those of Describe, and step_seconds (median), step_seconds_min, _max, images_per_second,
// flops_per_second, phases (seconds by phase, medians), loss, peak_rss_bytes (of the process when
// the last step was done). With options.ceiling also ceiling_flops_per_second and ceiling_share,
// and with options.roofline ceiling_bytes_per_second `roofline` (RooflineJson in profile.h) and the
// keys of OptimizerReport (optimizer_floor.h).
// With options.packed_weights "compare": only persistent_step_seconds, per_use_step_seconds,
// per_use_extra_share and the bytes of both.
absl::StatusOr<nlohmann::json> BenchStep(const BenchOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_STEP_BENCH_H_
