#include "worker/bench/op_bench.h"

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/optimizer_floor.h"
#include "worker/bench/peak.h"
#include "worker/bench/profile.h"
#include "worker/model/vit.h"

namespace vitscale {
namespace {

// How often each way to run an op was chosen in a step: {"Linear: bias, fused": 24, …}. Empty for a
// backend that has one way only.
absl::StatusOr<nlohmann::json> VariantsOf(const BenchOptions& options, BenchReplica& replica) {
  const ModelLayout& layout = replica.plan.layout;
  nlohmann::json counts = nlohmann::json::object();
  std::array programs{BuildStep(layout, {}), BuildUpdate(layout, OptimizerConfigOf(options))};
  for (Program& program : programs) {
    VITSCALE_ASSIGN_OR_RETURN(const auto prepared, replica.backend->Prepare(std::move(program)));
    for (const std::string& line : prepared->variants()) {
      const std::string name = line.substr(line.find(' ', 3) + 1);  // behind "op 12 "
      counts[name] = counts.value(name, 0) + 1;
    }
  }
  return counts;
}

}  // namespace

absl::StatusOr<nlohmann::json> BenchOps(const BenchOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(BenchReplica replica, MakeBenchReplica(options));
  VITSCALE_ASSIGN_OR_RETURN(const StepProfile profile,
                            ProfileStep(replica, OptimizerConfigOf(options), options.steps));
  nlohmann::json report = Describe(options, replica);
  report["groups"] = TalliesJson(profile.groups);
  report["ops"] = TalliesJson(profile.ops);
  report["peak_rss_bytes"] = PeakResidentBytes();
  VITSCALE_ASSIGN_OR_RETURN(const nlohmann::json variants, VariantsOf(options, replica));
  if (!variants.empty()) report["variants"] = variants;
  if (!options.ceiling) return report;
  const std::optional<Peak> peak = PeakOf(options, replica, /*with_memory=*/true);
  if (!peak.has_value()) return report;
  report["ceiling_flops_per_second"] = peak->flops_per_second;
  report["ceiling_bytes_per_second"] = peak->bytes_per_second;
  report["roofline"] = RooflineJson(profile.kinds, peak->flops_per_second, peak->bytes_per_second);
  report.update(OptimizerReport(replica.plan, OptimizerConfigOf(options), profile.kinds,
                                peak->bytes_per_second));
  return report;
}

}  // namespace vitscale
