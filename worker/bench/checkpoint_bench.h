// vitscale-bench checkpoint: what saving a model's state costs: the copy that training waits for,
// and writing, syncing and reading back, which go on beside it.

#ifndef WORKER_BENCH_CHECKPOINT_BENCH_H_
#define WORKER_BENCH_CHECKPOINT_BENCH_H_

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

struct CheckpointOptions {
  BenchOptions run;       // the model; steps: checkpoints written
  std::string directory;  // empty: a temporary one
};

void AddCheckpointFlags(CLI::App& command, CheckpointOptions& options);

// Writes options.run.steps checkpoints of one rank below the directory, one at a time, and removes
// each. Keys: model, optimizer, parameters, directory, bytes, stall_seconds, bytes_per_second
// (write, sync and manifest together), verify_bytes_per_second (from the page cache where the file
// still is in it), phases (medians: snapshot, write without syncs, sync, manifest with its syncs,
// verify), peak_rss_bytes.
absl::StatusOr<nlohmann::json> BenchCheckpoint(const CheckpointOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_CHECKPOINT_BENCH_H_
