// vitscale-bench probe: what the plan predicts step times from (worker/plan/machine_rates.h),
// measured with the real kernels on single blocks of a few widths. About 15 seconds on two cores
// that nobody else uses.

#ifndef WORKER_BENCH_PROBE_H_
#define WORKER_BENCH_PROBE_H_

#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"
#include "worker/plan/machine_rates.h"

namespace vitscale {

// One block of a model and its head.
struct ProbeSample {
  int width, heads, patch, image_size, channels, batch;
};

struct ProbeOptions {
  // Images enough for panels and weight gradients to be as tall as in training: 3,136 rows.
  std::vector<ProbeSample> samples = {{128, 4, 4, 28, 1, 64},
                                      {192, 3, 16, 224, 3, 16},
                                      {384, 6, 16, 224, 3, 16},
                                      {768, 12, 16, 224, 3, 16}};
  // Blocks of width 384 whose state the update is measured on: 22 million parameters, beyond a
  // cache.
  int update_depth = 12;
  int threads = 0;  // of one worker; 0: every core
  std::string instruction_set;
  std::string out;  // empty: DefaultRatesPath()
  bool json = false;
  std::ostream* progress = nullptr;  // a line for each part, and a warning; null: none
};

void AddProbeFlags(CLI::App& command, ProbeOptions& options);

struct ProbeResult {
  MachineRates rates;
  // How much longer the slowest repetitions took than the fastest, of the part where that is most.
  double spread_share = 0;
};
absl::StatusOr<ProbeResult> MeasureRates(const ProbeOptions& options);

// Measures and writes the file. Keys: out, device, threads, ceilings, spread_share, seconds (of the
// probe).
absl::StatusOr<nlohmann::json> BenchProbe(const ProbeOptions& options);

}  // namespace vitscale

#endif  // WORKER_BENCH_PROBE_H_
