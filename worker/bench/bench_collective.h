// Collectives between the processes of a benchmark.

#ifndef WORKER_BENCH_BENCH_COLLECTIVE_H_
#define WORKER_BENCH_BENCH_COLLECTIVE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/collective/collective.h"
#include "worker/collective/rendezvous.h"

namespace vitscale {

inline constexpr char kBenchAddress[] = "127.0.0.1";

// `transport`: "gloo", "shared_memory", or "nccl" between cuda:<rank> of all ranks; one rank alone
// needs none. `listener` is opened before the ranks are forked, and lives as long as they. Errors:
// of nccl, as CreateCommunicator.
absl::StatusOr<std::unique_ptr<Collective>> MakeBenchCollective(const std::string& transport,
                                                                int rank, int ranks,
                                                                RendezvousListener& listener);

// Where the buckets of a rank lie.
std::string BenchDeviceOf(const std::string& transport, int rank);

// Of every repetition, the slowest rank's value of the list `key`.
std::vector<double> Slowest(const std::vector<nlohmann::json>& ranks, const char* key);

}  // namespace vitscale

#endif  // WORKER_BENCH_BENCH_COLLECTIVE_H_
