// What an update costs at least: the bytes that must pass between memory and cores when gradients
// are read once for the statistics and once with the state, and compute weights are written from
// the new parameters while they are at hand.

#ifndef WORKER_BENCH_OPTIMIZER_FLOOR_H_
#define WORKER_BENCH_OPTIMIZER_FLOOR_H_

#include <vector>

#include "nlohmann/json.hpp"
#include "worker/bench/profile.h"
#include "worker/plan/plan.h"

namespace vitscale {

// Of one update of the planned model: gradients twice, parameters, momentum, second moment and
// average read and written, the compute copies of matmul weights written.
double OptimizerFloorBytes(const Plan& plan, const OptimizerConfig& optimizer);

// optimizer_seconds (GradStats, the update, PrepareWeights), optimizer_floor_bytes_per_parameter,
// and optimizer_floor_share: the floor at `ceiling_bytes_per_second` over those seconds.
nlohmann::json OptimizerReport(const Plan& plan, const OptimizerConfig& optimizer,
                               const std::vector<Tally>& kinds, double ceiling_bytes_per_second);

}  // namespace vitscale

#endif  // WORKER_BENCH_OPTIMIZER_FLOOR_H_
