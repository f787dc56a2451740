#include "worker/bench/peak.h"

#include "worker/bench/ceiling.h"

namespace vitscale {

std::optional<Peak> PeakOf(const BenchOptions& options, const BenchReplica& replica,
                           bool with_memory) {
  const BackendInfo info = replica.backend->info();
  const Precision precision = replica.plan.request.precision;
  if (options.peak_tflops > 0) {
    return Peak{options.peak_tflops * 1e12, options.peak_gigabytes_per_second * 1e9};
  }
  if (info.name != "cpu") return PeakOfCard(info.device, precision != Precision::kF32);
  return Peak{MeasureCeiling(precision, info.threads).flops_per_second,
              with_memory ? MeasureTriadBytesPerSecond(info.threads) : 0};
}

}  // namespace vitscale
