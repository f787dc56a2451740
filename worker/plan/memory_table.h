// Where a plan's memory goes, by kind: a part of PlanText, and of what is said when there is not
// enough of it after all.

#ifndef WORKER_PLAN_MEMORY_TABLE_H_
#define WORKER_PLAN_MEMORY_TABLE_H_

#include <string>

#include "absl/status/status.h"
#include "worker/plan/plan.h"

namespace vitscale {

// Lines with a closing newline: what lies on the card and what in the host's memory, or all of it
// on the CPU.
std::string MemoryTable(const Plan& plan);

// RESOURCE_EXHAUSTED with the table behind its message; any other status as it is. For what a
// backend says while a replica is made: memory that the plan did not know about was missing
// (another process on the card).
absl::Status WithMemoryTable(const absl::Status& status, const Plan& plan);

}  // namespace vitscale

#endif  // WORKER_PLAN_MEMORY_TABLE_H_
