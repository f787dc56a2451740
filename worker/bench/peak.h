// The most a machine can do: measured on a CPU, from the maker's data sheet for a card.

#ifndef WORKER_BENCH_PEAK_H_
#define WORKER_BENCH_PEAK_H_

#include <optional>

#include "worker/bench/bench_model.h"
#include "worker/card/peak.h"

namespace vitscale {

// What --peak-tflops and --peak-gbs say; else of the card, or measured on the CPU (memory only
// where `with_memory`). None for an unknown card.
std::optional<Peak> PeakOf(const BenchOptions& options, const BenchReplica& replica,
                           bool with_memory);

}  // namespace vitscale

#endif  // WORKER_BENCH_PEAK_H_
