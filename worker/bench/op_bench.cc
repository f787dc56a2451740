#include "worker/bench/op_bench.h"

#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/ceiling.h"
#include "worker/bench/optimizer_floor.h"
#include "worker/bench/profile.h"

namespace vitscale {

absl::StatusOr<nlohmann::json> BenchOps(const BenchOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(BenchReplica replica, MakeBenchReplica(options));
  VITSCALE_ASSIGN_OR_RETURN(const StepProfile profile,
                            ProfileStep(replica, OptimizerConfigOf(options), options.steps));
  nlohmann::json report = Describe(options, replica);
  report["groups"] = TalliesJson(profile.groups);
  report["ops"] = TalliesJson(profile.ops);
  report["peak_rss_bytes"] = PeakResidentBytes();
  if (!options.ceiling) return report;
  const int threads = replica.backend->info().threads;
  const double flops = MeasureCeiling(replica.plan.request.precision, threads).flops_per_second;
  const double bytes = MeasureTriadBytesPerSecond(threads);
  report["ceiling_flops_per_second"] = flops;
  report["ceiling_bytes_per_second"] = bytes;
  report["roofline"] = RooflineJson(profile.kinds, flops, bytes);
  report.update(OptimizerReport(replica.plan, OptimizerConfigOf(options), profile.kinds, bytes));
  return report;
}

}  // namespace vitscale
