#include "worker/plan/backend_bytes.h"

#include <algorithm>
#include <map>
#include <utility>

namespace vitscale {
namespace {

int64_t Elements(const WeightParts& weight) {
  int64_t elements = 0;
  for (const TensorView& part : weight) elements += part.elements();
  return elements;
}

// Walks a program op by op.
class Survey {
 public:
  explicit Survey(DType compute) : compute_(compute) {}

  void operator()(const LinearArgs& a) { Copy(a.weight, false, a.full_precision); }
  void operator()(const LinearGradInputArgs& a) { Copy(a.weight, true, a.full_precision); }
  // A share of the gradients of gamma and beta for each image.
  void operator()(const LayerNormGradArgs& a) { shares_ += batch_ * 2 * a.x.columns() * 4; }
  // Scores and their gradients of one image and head, as rows and interleaved.
  void operator()(const SelfAttentionGradArgs& a) {
    Scratch(3 * a.tokens * a.tokens * DTypeBytes(compute_) +
            8 * a.tokens * a.grad_out.columns() / a.heads * 4);
  }
  // Blocks of both operands by pairs of rows, and widened ones.
  void operator()(const LinearGradWeightArgs&) { Scratch(int64_t{1} << 20); }
  void operator()(const PanelBeginArgs& a) {
    batch_ = a.batch;
    ++group_;
  }
  void operator()(const PanelEndArgs&) { batch_ = 0; }
  template <typename Other>
  void operator()(const Other&) {}

  int64_t weight_bytes() const {
    int64_t bytes = 0;
    for (const auto& [copy, size] : copies_) bytes += size;
    return bytes;
  }
  // Of the panel group, or the op outside of one, that reads most.
  int64_t largest_use_bytes() const { return largest_use_; }
  int64_t scratch_bytes() const { return scratch_; }
  int64_t share_bytes() const { return shares_; }

 private:
  void Scratch(int64_t bytes) { scratch_ = std::max(scratch_, bytes); }
  void Copy(const WeightParts& weight, bool transposed, bool full_precision) {
    const int64_t elements = Elements(weight);
    const DType dtype = full_precision ? DType::kF32 : compute_;
    const Key key = {weight[0].offset, 2 * static_cast<int>(dtype) + (transposed ? 1 : 0)};
    copies_[key] = elements * DTypeBytes(dtype);
    if (batch_ == 0 || group_ != uses_of_) uses_.clear();
    uses_of_ = group_;
    uses_[key] = copies_[key];
    int64_t bytes = 0;
    for (const auto& [use, size] : uses_) bytes += size;
    largest_use_ = std::max(largest_use_, bytes);
  }

  using Key = std::pair<int64_t, int>;  // place, dtype and direction

  const DType compute_;
  std::map<Key, int64_t> copies_, uses_;  // of the program; of this group
  int64_t group_ = 0, uses_of_ = 0, largest_use_ = 0;
  int64_t scratch_ = 0, shares_ = 0, batch_ = 0;
};

}  // namespace

int64_t OptimizerWorkspaceBytes(const ModelLayout& layout) {
  if (layout.optimizer != OptimizerKind::kAdafactor) return 0;
  int64_t sums = 0;
  for (const Parameter& p : layout.table.parameters()) {
    if (p.factoring.factored) sums += p.elements() / 32;
  }
  return sums * DTypeBytes(DType::kF32);
}

void AddBackendBytes(Plan& plan, Program& program) {
  Survey survey(ComputeDType(plan.request.precision));
  for (const Op& op : program.ops()) std::visit(survey, op);
  plan.persistent_weight_bytes = std::max(plan.persistent_weight_bytes, survey.weight_bytes());
  plan.per_use_weight_bytes = std::max(plan.per_use_weight_bytes, survey.largest_use_bytes());
  plan.compute_weight_bytes = plan.request.packing == WeightPacking::kPerUse
                                  ? plan.per_use_weight_bytes
                                  : plan.persistent_weight_bytes;
  plan.workspace_bytes = std::max(
      plan.workspace_bytes, plan.request.threads * survey.scratch_bytes() + survey.share_bytes());
}

}  // namespace vitscale
