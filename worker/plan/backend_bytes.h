// What a CPU backend holds besides its arenas, from the ops of a program alone: compute copies of
// weights, scratch of its threads, partial sums. An estimate: backends lay their copies out as they
// like. Backend::memory() says what it was; vitscale-bench step compares the two.

#ifndef WORKER_PLAN_BACKEND_BYTES_H_
#define WORKER_PLAN_BACKEND_BYTES_H_

#include "kernels/program.h"
#include "worker/plan/plan.h"

namespace vitscale {

// Column sums of a factored gradient's squares come in blocks of 32 rows.
int64_t OptimizerWorkspaceBytes(const ModelLayout& layout);

// Raises plan.compute_weight_bytes and plan.workspace_bytes to what `program` needs.
void AddBackendBytes(Plan& plan, Program& program);

}  // namespace vitscale

#endif  // WORKER_PLAN_BACKEND_BYTES_H_
