// vitscale-bench allreduce: how long ranks on this machine need to sum gradients, in buckets and
// with the record of a step behind them, as a step does it. Ranks are processes; those of nccl have
// a card each, where their gradients lie.

#ifndef WORKER_BENCH_ALLREDUCE_BENCH_H_
#define WORKER_BENCH_ALLREDUCE_BENCH_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"

namespace vitscale {

struct AllReduceOptions {
  BenchOptions run;   // the model whose gradients are summed; steps and json
  int64_t bytes = 0;  // > 0: so many instead of a model's
  int64_t bucket_bytes = PlanRequest{}.bucket_bytes;
  int ranks = 2;
  std::string transport = "gloo";  // over loopback; or "shared_memory", "nccl"
};

void AddAllReduceFlags(CLI::App& command, AllReduceOptions& options);

// The first sum is checked: INTERNAL if a value is wrong. Keys: ranks, algorithm, bytes (of one
// rank's gradients), buckets, seconds (median; each the slowest rank's), seconds_min, _max,
// bytes_per_second (bytes / seconds), bus_bytes_per_second (2 (n - 1) / n of it: what each rank of
// a ring must send, so that figures of any number of ranks compare with what links can do; the
// definition of nccl-tests), of gloo, which is a ring, the same as wire_bytes_per_second, of nccl
// device (rank 0's card), phases (all_reduce: as seconds; record_alone: an exchange without
// buckets), peak_rss_bytes (of the largest rank). FAILED_PRECONDITION in one line: of nccl, no
// plugin, driver or library, or fewer cards than ranks.
absl::StatusOr<nlohmann::json> BenchAllReduce(const AllReduceOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_ALLREDUCE_BENCH_H_
