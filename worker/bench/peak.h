// The most a machine can do: measured on a CPU, from the maker's data sheet for a card.

#ifndef WORKER_BENCH_PEAK_H_
#define WORKER_BENCH_PEAK_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "worker/bench/bench_model.h"
#include "worker/model/model_config.h"

namespace vitscale {

struct Peak {
  double flops_per_second = 0;
  double bytes_per_second = 0;
};

// Dense, without sparsity; f32 without TF32. None for a card that is not in the table. `device` is
// what the driver calls it: "NVIDIA H100 80GB HBM3".
std::optional<Peak> PeakOfCard(absl::string_view device, Precision precision);

// What --peak-tflops and --peak-gbs say; else of the card, or measured on the CPU (memory only
// where `with_memory`). None for an unknown card.
std::optional<Peak> PeakOf(const BenchOptions& options, const BenchReplica& replica,
                           bool with_memory);

}  // namespace vitscale

#endif  // WORKER_BENCH_PEAK_H_
