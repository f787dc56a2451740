// A program: the ops of one pass in order. Built by worker/model, priced by worker/plan, run by a Backend.

#ifndef KERNELS_PROGRAM_H_
#define KERNELS_PROGRAM_H_

#include <utility>
#include <variant>
#include <vector>

#include "kernels/ops.h"

namespace vitscale {

using Op = std::variant<
    ImagesToPatchesArgs, EmbedTokensArgs, EmbedTokensGradArgs, LinearArgs, LinearGradInputArgs,
    LinearGradWeightArgs, LayerNormArgs, ResidualLayerNormArgs, LayerNormGradArgs, SelfAttentionArgs,
    SelfAttentionGradArgs, PoolAttentionArgs, PoolAttentionGradArgs, MeanPoolArgs, MeanPoolGradArgs,
    SelectTokenArgs, SelectTokenGradArgs, TanhArgs, TanhGradArgs, SigmoidLossArgs, SoftmaxLossArgs,
    GradStatsArgs, AdafactorApplyArgs, AdamWApplyArgs, SgdApplyArgs, PrepareWeightsArgs,
    PolyakAverageArgs, DigestArgs, FillArgs, CopyArgs, CastArgs, PanelBeginArgs, PanelEndArgs,
    GradientsReadyArgs, PhaseArgs>;

class Program {
 public:
  template <typename Args>
  void Add(Args args) {
    ops_.emplace_back(std::move(args));
  }
  const std::vector<Op>& ops() const { return ops_; }
  std::vector<Op>& mutable_ops() { return ops_; }

 private:
  std::vector<Op> ops_;
};

// "Linear", "SelfAttentionGrad", …
const char* OpName(const Op& op);

// Every operand that the op reads and writes, absent ones left out; for lifetimes, checks and printing. The
// callback gets (view, written). Defined once, in program.cc, for all ops.
using OperandVisitor = void (*)(void* context, TensorView& view, bool written);
void VisitOperands(Op& op, void* context, OperandVisitor visitor);

}  // namespace vitscale

#endif  // KERNELS_PROGRAM_H_
