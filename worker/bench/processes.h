// Runs the same function in several processes, as the ranks of a job are.

#ifndef WORKER_BENCH_PROCESSES_H_
#define WORKER_BENCH_PROCESSES_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace vitscale {

// Forks `count` processes; each calls `body` with its number, and what that returns comes back, in
// order. They die with this process. Errors: those of the first one that fails, "rank 1: …", with
// its code, when the others have been killed; UNAVAILABLE for one that ended without an answer;
// RESOURCE_EXHAUSTED if none can be started. No other thread of this process may be doing anything.
absl::StatusOr<std::vector<nlohmann::json>> RunInProcesses(
    int count, const std::function<absl::StatusOr<nlohmann::json>(int number)>& body);

}  // namespace vitscale

#endif  // WORKER_BENCH_PROCESSES_H_
