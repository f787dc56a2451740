// Collectives between the processes of a benchmark.

#ifndef WORKER_BENCH_BENCH_COLLECTIVE_H_
#define WORKER_BENCH_BENCH_COLLECTIVE_H_

#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/collective/collective.h"
#include "worker/collective/rendezvous.h"

namespace vitscale {

inline constexpr char kBenchAddress[] = "127.0.0.1";

// `transport`: "gloo" or "shared_memory"; one rank alone needs neither. `listener` is opened before
// the ranks are forked, and lives as long as they.
std::unique_ptr<Collective> MakeBenchCollective(const std::string& transport, int rank, int ranks,
                                                RendezvousListener& listener);

// Of every repetition, the slowest rank's value of the list `key`.
std::vector<double> Slowest(const std::vector<nlohmann::json>& ranks, const char* key);

}  // namespace vitscale

#endif  // WORKER_BENCH_BENCH_COLLECTIVE_H_
