#include "worker/plan/cost.h"

namespace vitscale {
namespace {

double Matmul(double rows, double in, double out) { return 2 * rows * in * out; }

struct FlopsOfOp {
  double operator()(const LinearArgs& a) const {
    return Matmul(a.x.rows(), a.x.columns(), Columns(a.weight));
  }
  double operator()(const LinearGradInputArgs& a) const {
    return Matmul(a.grad_y.rows(), a.grad_x.columns(), Columns(a.weight));
  }
  double operator()(const LinearGradWeightArgs& a) const {
    return Matmul(a.x.rows(), a.x.columns(), Columns(a.grad_weight));
  }
  // Scores and weighted sum; backward has two matmuls for each.
  double operator()(const SelfAttentionArgs& a) const {
    return 2 * Matmul(double(a.batch) * a.tokens, a.tokens, a.out.columns());
  }
  double operator()(const SelfAttentionGradArgs& a) const {
    return 4 * Matmul(double(a.batch) * a.tokens, a.tokens, a.grad_out.columns());
  }
  double operator()(const PoolAttentionArgs& a) const {
    return 2 * Matmul(a.batch, a.tokens, a.out.columns());
  }
  double operator()(const PoolAttentionGradArgs& a) const {
    return 4 * Matmul(a.batch, a.tokens, a.grad_out.columns());
  }
  template <typename Other>
  double operator()(const Other&) const {
    return 0;
  }
};

}  // namespace

OpCost CostOf(Op& op) {
  OpCost cost;
  cost.flops = std::visit(FlopsOfOp{}, op);
  VisitOperands(op, &cost.bytes, [](void* context, TensorView& view, bool /*written*/) {
    *static_cast<double*>(context) += view.bytes();
  });
  return cost;
}

OpCost CostOf(Program& program) {
  OpCost sum;
  for (Op& op : program.mutable_ops()) {
    const OpCost cost = CostOf(op);
    sum.flops += cost.flops;
    sum.bytes += cost.bytes;
  }
  return sum;
}

Flops FlopsOf(const ModelConfig& m) {
  const double width = m.width, hidden = m.mlp_width, tokens = m.tokens();
  const double attention = 4 * width * width * tokens + 2 * width * tokens * tokens;
  const double mlp = 2 * width * hidden * tokens;
  Flops flops;
  flops.trunk =
      2 * (double(m.patches()) * m.patch_elements() * width + m.depth * (attention + mlp));
  flops.paper_table = flops.trunk + m.depth * (3 * m.heads * tokens * tokens + 5 * tokens * hidden +
                                               51 * tokens * width);
  double head = double(m.head_input()) * m.classes;
  if (m.representation_size > 0) head += width * m.representation_size;
  // Keys and values of all tokens, one query, its output projection and the MLP; the query itself
  // is projected once per step, not per image.
  if (m.pool == PoolKind::kMap) {
    head += 2 * tokens * width * width + 2 * tokens * width + width * width + 2 * width * hidden;
  }
  flops.forward = flops.trunk + 2 * head;
  return flops;
}

}  // namespace vitscale
