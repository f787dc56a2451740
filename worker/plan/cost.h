// What one op costs: the arithmetic of its matmuls and the bytes of its operands. Prices programs
// for the plan and for the shares that vitscale-bench prints.

#ifndef WORKER_PLAN_COST_H_
#define WORKER_PLAN_COST_H_

#include "kernels/program.h"
#include "worker/model/model_config.h"
#include "worker/plan/plan.h"

namespace vitscale {

struct OpCost {
  double flops =
      0;  // 2 per multiply-accumulate of a matmul; 0 for ops without one. Attention's backward
          // counts what must be computed, not the scores a kernel computes again.
  double bytes = 0;  // of all operands, each once: the least traffic if nothing stays in cache
};

OpCost CostOf(Op& op);
OpCost CostOf(Program& program);

// Closed form, per image; the programs' sum equals it (a test compares them).
Flops FlopsOf(const ModelConfig& model);

}  // namespace vitscale

#endif  // WORKER_PLAN_COST_H_
