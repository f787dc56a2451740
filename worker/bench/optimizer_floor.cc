#include "worker/bench/optimizer_floor.h"

#include <type_traits>

#include "worker/model/vit.h"

namespace vitscale {
namespace {

struct FloorOf {
  double operator()(const GradStatsArgs& a) const {
    double bytes = 0;
    for (const OptimizedTensor& t : a.tensors) bytes += t.gradient.bytes();
    return bytes;
  }
  template <typename Args>
  double operator()(const Args& a) const {
    if constexpr (std::is_base_of_v<OptimizerArgs, Args>) {
      double bytes = 0;
      for (const OptimizedTensor& t : a.tensors) {
        bytes += t.gradient.bytes() + 2 * (t.parameter.bytes() + t.momentum.bytes());
        if (t.second_moment.present()) bytes += 2 * t.second_moment.bytes();
        if (t.average.present()) bytes += 2 * t.average.bytes();
      }
      return bytes;
    }
    return 0;
  }
};

}  // namespace

double OptimizerFloorBytes(const Plan& plan, const OptimizerConfig& optimizer) {
  double bytes = static_cast<double>(plan.compute_weight_bytes);
  const Program update = BuildUpdate(plan.layout, optimizer);
  for (const Op& op : update.ops()) bytes += std::visit(FloorOf{}, op);
  return bytes;
}

nlohmann::json OptimizerReport(const Plan& plan, const OptimizerConfig& optimizer,
                               const std::vector<Tally>& kinds, double ceiling_bytes_per_second) {
  double seconds = 0;
  for (const Tally& kind : kinds) seconds += IsOfUpdate(kind.name) ? kind.seconds : 0;
  const double bytes = OptimizerFloorBytes(plan, optimizer);
  const double parameters = static_cast<double>(plan.layout.table.parameter_count());
  return {{"optimizer_seconds", seconds},
          {"optimizer_floor_bytes_per_parameter", bytes / parameters},
          {"optimizer_floor_share", bytes / ceiling_bytes_per_second / seconds}};
}

}  // namespace vitscale
