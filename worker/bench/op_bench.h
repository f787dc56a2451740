// vitscale-bench op: times the ops of one step. Each panel group and each op outside of one is
// timed as it runs in a step; then each op of a group by itself on the whole batch, which shows
// where a group's time goes (alone, an op has no warm cache, so that the sum is mostly above the
// group). Seconds are the fastest of the repetitions: pieces are short, and whatever else runs on
// the machine only ever adds.

#ifndef WORKER_BENCH_OP_BENCH_H_
#define WORKER_BENCH_OP_BENCH_H_

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

// Keys: those of Describe, and `groups` and `ops`, each a list of {name, count, seconds (of all
// `count` together), share, gflops, gigabytes_per_second} by kind, slowest first.
absl::StatusOr<nlohmann::json> BenchOps(const BenchOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_OP_BENCH_H_
