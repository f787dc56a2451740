// vitscale-bench op: times the ops of one step (profile.h says how).

#ifndef WORKER_BENCH_OP_BENCH_H_
#define WORKER_BENCH_OP_BENCH_H_

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

// Keys: those of Describe, `groups` and `ops` as TalliesJson gives them, and peak_rss_bytes. With
// options.ceiling also ceiling_flops_per_second, ceiling_bytes_per_second, `roofline` and the keys
// of OptimizerReport.
absl::StatusOr<nlohmann::json> BenchOps(const BenchOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_OP_BENCH_H_
