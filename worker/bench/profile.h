// Where the time of a step goes: each panel group and each op outside of one is timed as it runs in
// a step; then each op of a group by itself on the whole batch, which shows where a group's time
// goes (alone, an op has no warm cache, so that the sum is mostly above the group).
//
// Seconds are the fastest of the repetitions: pieces are short, and whatever else runs on the
// machine only ever adds. How much that was stands beside them.

#ifndef WORKER_BENCH_PROFILE_H_
#define WORKER_BENCH_PROFILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/bench/bench_model.h"
#include "worker/plan/cost.h"

namespace vitscale {

// Things of one name, together.
struct Tally {
  std::string name;
  int count = 0;
  double seconds = 0;
  OpCost cost;
  double slowest_seconds = 0;  // of the slowest repetitions
};

struct StepProfile {          // each list slowest first
  std::vector<Tally> groups;  // pieces as they run in a step, by the ops in them
  std::vector<Tally> ops;     // every op alone, by kind and shape
  std::vector<Tally> kinds;   // by kind; a group's seconds are shared out as its ops take alone
};

// Times forward, loss, backward, update and weight copies of one micro-batch. The replica's state
// is garbage afterwards.
absl::StatusOr<StepProfile> ProfileStep(BenchReplica& replica, const OptimizerConfig& optimizer,
                                        int repetitions);

// Whether a kind is statistics of gradients, an optimizer or the copying of weights.
bool IsOfUpdate(const std::string& kind);

// The update and the weight copies alone, by kind.
absl::StatusOr<std::vector<Tally>> ProfileUpdate(BenchReplica& replica,
                                                 const OptimizerConfig& optimizer, int repetitions);

// {name, count, seconds, share (of all seconds), flops_per_second, bytes_per_second} of each.
nlohmann::json TalliesJson(const std::vector<Tally>& tallies);

// The same for kinds with `bound` ("compute" or "memory": which of flops / flops_per_second and
// bytes / bytes_per_second is longer) and `ceiling_share`, that time over the measured one. It may
// exceed 1 for what a panel group keeps in cache: bytes count as if all came from memory.
nlohmann::json RooflineJson(const std::vector<Tally>& kinds, double ceiling_flops_per_second,
                            double ceiling_bytes_per_second);

}  // namespace vitscale

#endif  // WORKER_BENCH_PROFILE_H_
