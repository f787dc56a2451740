// vitscale-bench workers: what a job loses by being spread over workers of one machine, and how
// much of its sums backward hides. Ranks are processes that make real steps.

#ifndef WORKER_BENCH_WORKERS_BENCH_H_
#define WORKER_BENCH_WORKERS_BENCH_H_

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

struct WorkersOptions {
  BenchOptions run;  // batch and threads: of all workers together; steps: of each repetition
  int workers = 2;
  int repetitions = 5;  // in turns
  int sleep_millis = 200;
};

void AddWorkersFlags(CLI::App& command, WorkersOptions& options);

// In turns: one worker with all threads ("single"), `workers` with their share of threads and
// images over shared memory and over Gloo, and one whose sums of all gradients together sleep
// `sleep_millis` instead of working ("sleeping"). Keys: sides, {name, algorithm, step_seconds,
// _min, _max (medians of a repetition, slowest rank), exposed_seconds (waiting for sums after
// backward), images_per_second, ratio_share (to single: median of the repetitions; not of
// sleeping), hidden_share (of sleeping)}; ceiling_flops_per_second, _min, _max (not where
// run.ceiling is false).
absl::StatusOr<nlohmann::json> BenchWorkers(const WorkersOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_WORKERS_BENCH_H_
