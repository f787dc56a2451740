#include "kernels/program.h"

#include <iterator>

namespace vitscale {
namespace {

// Calls the visitor on present views only. One Visit overload per op, in the order of ops.h.
class Operands {
 public:
  Operands(void* context, OperandVisitor visitor) : context_(context), visitor_(visitor) {}
  template <typename... Views>
  void Reads(Views&... views) {
    (One(views, false), ...);
  }
  template <typename... Views>
  void Writes(Views&... views) {
    (One(views, true), ...);
  }

 private:
  void One(TensorView& view, bool written) {
    if (view.present()) visitor_(context_, view, written);
  }
  void One(WeightParts& parts, bool written) {
    for (TensorView& part : parts) One(part, written);
  }
  void One(std::vector<TensorView>& views, bool written) {
    for (TensorView& view : views) One(view, written);
  }

  void* context_;
  OperandVisitor visitor_;
};

void Visit(ImagesToPatchesArgs& a, Operands& o) {
  o.Reads(a.images, a.augment);
  o.Writes(a.patches);
}
void Visit(EmbedTokensArgs& a, Operands& o) {
  o.Reads(a.embedding, a.position, a.class_token);
  o.Writes(a.tokens);
}
void Visit(EmbedTokensGradArgs& a, Operands& o) {
  o.Reads(a.grad_tokens);
  o.Writes(a.grad_embedding, a.grad_position, a.grad_class_token);
}
void Visit(LinearArgs& a, Operands& o) {
  o.Reads(a.x, a.weight, a.bias, a.residual);
  o.Writes(a.pre_activation, a.y);
}
void Visit(LinearGradInputArgs& a, Operands& o) {
  o.Reads(a.grad_y, a.weight, a.pre_activation);
  o.Writes(a.grad_x, a.activation);
}
void Visit(LinearGradWeightArgs& a, Operands& o) {
  o.Reads(a.x, a.grad_y);
  o.Writes(a.grad_weight, a.grad_bias);
}
void Visit(LayerNormArgs& a, Operands& o) {
  o.Reads(a.x, a.gamma, a.beta);
  o.Writes(a.y, a.mean, a.inv_std);
}
void Visit(ResidualLayerNormArgs& a, Operands& o) {
  o.Reads(a.x, a.delta, a.gamma, a.beta);
  o.Writes(a.sum, a.y, a.mean, a.inv_std);
}
void Visit(LayerNormGradArgs& a, Operands& o) {
  o.Reads(a.grad_y, a.x, a.mean, a.inv_std, a.gamma, a.grad_residual, a.beta);
  o.Writes(a.grad_x, a.grad_x_cast, a.grad_gamma, a.grad_beta, a.y);
}
void Visit(SelfAttentionArgs& a, Operands& o) {
  o.Reads(a.qkv);
  o.Writes(a.out, a.log_sum_exp);
}
void Visit(SelfAttentionGradArgs& a, Operands& o) {
  o.Reads(a.grad_out, a.qkv, a.out, a.log_sum_exp);
  o.Writes(a.grad_qkv);
}
void Visit(PoolAttentionArgs& a, Operands& o) {
  o.Reads(a.query, a.key_value);
  o.Writes(a.out, a.log_sum_exp);
}
void Visit(PoolAttentionGradArgs& a, Operands& o) {
  o.Reads(a.grad_out, a.query, a.key_value, a.out, a.log_sum_exp);
  o.Writes(a.grad_query, a.grad_key_value);
}
void Visit(MeanPoolArgs& a, Operands& o) {
  o.Reads(a.x);
  o.Writes(a.y);
}
void Visit(MeanPoolGradArgs& a, Operands& o) {
  o.Reads(a.grad_y);
  o.Writes(a.grad_x);
}
void Visit(SelectTokenArgs& a, Operands& o) {
  o.Reads(a.x);
  o.Writes(a.y);
}
void Visit(SelectTokenGradArgs& a, Operands& o) {
  o.Reads(a.grad_y);
  o.Writes(a.grad_x);
}
void Visit(TanhArgs& a, Operands& o) {
  o.Reads(a.x);
  o.Writes(a.y);
}
void Visit(TanhGradArgs& a, Operands& o) {
  o.Reads(a.grad_y, a.y);
  o.Writes(a.grad_x);
}
template <typename LossArgs>
void VisitLoss(LossArgs& a, Operands& o) {
  o.Reads(a.logits, a.labels.ids, a.labels.offsets, a.labels.dense, a.valid);
  o.Writes(a.grad_logits, a.loss_sum, a.correct);
}
void Visit(SigmoidLossArgs& a, Operands& o) { VisitLoss(a, o); }
void Visit(SoftmaxLossArgs& a, Operands& o) { VisitLoss(a, o); }
void Visit(GradStatsArgs& a, Operands& o) {
  for (OptimizedTensor& t : a.tensors) o.Reads(t.gradient);
  o.Writes(a.gradient_square_sum, a.factored_sums);
}
void VisitOptimizer(OptimizerArgs& a, Operands& o) {
  o.Reads(a.gradient_square_sum, a.factored_sums);
  for (OptimizedTensor& t : a.tensors) {
    o.Reads(t.gradient);
    o.Writes(t.parameter, t.momentum, t.second_moment, t.average);
  }
  o.Writes(a.parameter_square_sum, a.update_square_sum);
}
void Visit(AdafactorApplyArgs& a, Operands& o) { VisitOptimizer(a, o); }
void Visit(AdamWApplyArgs& a, Operands& o) { VisitOptimizer(a, o); }
void Visit(SgdApplyArgs& a, Operands& o) { VisitOptimizer(a, o); }
void Visit(PrepareWeightsArgs& a, Operands& o) {
  for (WeightParts& weight : a.weights) o.Reads(weight);
}
void Visit(PolyakAverageArgs& a, Operands& o) {
  o.Reads(a.parameters);
  o.Writes(a.average);
}
void Visit(DigestArgs& a, Operands& o) {
  o.Reads(a.inputs);
  o.Writes(a.digest);
}
void Visit(FillArgs& a, Operands& o) { o.Writes(a.y); }
void Visit(CopyArgs& a, Operands& o) {
  o.Reads(a.x);
  o.Writes(a.y);
}
void Visit(CastArgs& a, Operands& o) {
  o.Reads(a.x);
  o.Writes(a.y);
}
void Visit(PanelBeginArgs&, Operands&) {}
void Visit(PanelEndArgs&, Operands&) {}
void Visit(GradientsReadyArgs&, Operands&) {}
void Visit(PhaseArgs&, Operands&) {}

}  // namespace

const char* OpName(const Op& op) {
  static constexpr const char* kNames[] = {"ImagesToPatches",
                                           "EmbedTokens",
                                           "EmbedTokensGrad",
                                           "Linear",
                                           "LinearGradInput",
                                           "LinearGradWeight",
                                           "LayerNorm",
                                           "ResidualLayerNorm",
                                           "LayerNormGrad",
                                           "SelfAttention",
                                           "SelfAttentionGrad",
                                           "PoolAttention",
                                           "PoolAttentionGrad",
                                           "MeanPool",
                                           "MeanPoolGrad",
                                           "SelectToken",
                                           "SelectTokenGrad",
                                           "Tanh",
                                           "TanhGrad",
                                           "SigmoidLoss",
                                           "SoftmaxLoss",
                                           "GradStats",
                                           "AdafactorApply",
                                           "AdamWApply",
                                           "SgdApply",
                                           "PrepareWeights",
                                           "PolyakAverage",
                                           "Digest",
                                           "Fill",
                                           "Copy",
                                           "Cast",
                                           "PanelBegin",
                                           "PanelEnd",
                                           "GradientsReady",
                                           "Phase"};
  static_assert(std::size(kNames) == std::variant_size_v<Op>);
  return kNames[op.index()];
}

void VisitOperands(Op& op, void* context, OperandVisitor visitor) {
  Operands operands(context, visitor);
  std::visit([&](auto& args) { Visit(args, operands); }, op);
}

}  // namespace vitscale
