// VitBuilder: the backward pass.
//
// Gradients with respect to activations run in panel groups, one per block; weight gradients follow
// each group, since they need all rows. The gradient of the residual stream is one f32 tensor
// updated in place when matmuls take bf16 (each matmul then reads the rounded copy of its own
// point); with f32 matmuls each point has its own tensor, which the weight gradients read later.
//
// What was not kept is computed again in the group that needs it, from what was: by the ops that
// read that anyway (GELU, LayerNorm), or by the block's forward ops at the head of its group.

#include "absl/strings/str_cat.h"
#include "worker/model/vit_builder.h"

namespace vitscale {

void VitBuilder::Backward() {
  program_.Add(PhaseArgs{"backward"});
  HeadBackward();
  for (int i = m_.depth - 1; i >= 0; --i) BlockBackward(i);
  EmbedBackward();
}

// ---- pieces ------------------------------------------------------------------

TensorView VitBuilder::GradInput(const TensorView& grad_y, const std::string& kernel,
                                 const TensorView& pre_activation, const TensorView& activation) {
  const WeightParts weight = Kernel(kernel);
  const TensorView grad_x =
      New(absl::StrCat("grad.", kernel), compute_, grad_y.rows(), weight[0].shape[0]);
  program_.Add(LinearGradInputArgs{.grad_y = grad_y,
                                   .weight = weight,
                                   .pre_activation = pre_activation,
                                   .grad_x = grad_x,
                                   .activation = activation});
  return grad_x;
}

void VitBuilder::GradWeight(const TensorView& x, const TensorView& grad_y, const std::string& at) {
  GradWeight(x, grad_y, KernelGradient(at + "/kernel"), BiasGradient(at + "/bias"));
}
void VitBuilder::GradWeight(const TensorView& x, const TensorView& grad_y, WeightParts kernel,
                            WeightParts bias, bool full_precision) {
  program_.Add(LinearGradWeightArgs{.x = x,
                                    .grad_y = grad_y,
                                    .grad_weight = std::move(kernel),
                                    .grad_bias = std::move(bias),
                                    .accumulate = accumulate_,
                                    .full_precision = full_precision});
}

TensorView VitBuilder::MlpBackwardInput(const std::string& at, MlpTrace& mlp,
                                        const TensorView& grad_y, TensorView* grad_hidden) {
  TensorView again;
  if (mlp.hidden_again) again = mlp.hidden = mlp.pre_activation;  // its last reader takes its place
  *grad_hidden = GradInput(grad_y, at + "/Dense_1/kernel", mlp.pre_activation, again);
  return GradInput(*grad_hidden, at + "/Dense_0/kernel");
}

// Moves grad_stream_ to before the norm. `last`: nothing multiplies the result, no rounded copy is
// needed.
void VitBuilder::NormBackward(const std::string& at, NormTrace& norm, const TensorView& grad_y,
                              bool last) {
  const TensorView residual = grad_stream_;
  const bool f32 = compute_ == DType::kF32;
  if (f32 || !residual.present()) {
    grad_stream_ = New(absl::StrCat("grad.", at), DType::kF32, norm.x.rows(), width_);
  }
  TensorView cast;
  if (!f32 && !last)
    cast = New(absl::StrCat("grad.", at, ".cast"), compute_, norm.x.rows(), width_);
  TensorView beta, y;
  if (norm.y_again) {
    beta = Weight(at + "/bias");
    y = norm.y = New(absl::StrCat("again.", at, ".y"), compute_, norm.x.rows(), width_);
  }
  program_.Add(LayerNormGradArgs{.grad_y = grad_y,
                                 .x = norm.x,
                                 .mean = norm.mean,
                                 .inv_std = norm.inv_std,
                                 .gamma = Weight(at + "/scale"),
                                 .grad_residual = residual,
                                 .grad_x = grad_stream_,
                                 .grad_x_cast = cast,
                                 .grad_gamma = Gradient(at + "/scale"),
                                 .grad_beta = Gradient(at + "/bias"),
                                 .accumulate = accumulate_,
                                 .beta = beta,
                                 .y = y});
  grad_stream_cast_ = f32 ? grad_stream_ : cast;
}

// ---- head --------------------------------------------------------------------

void VitBuilder::HeadBackward() {
  const TensorView grad_pooled = ClassifierBackward();
  if (m_.pool == PoolKind::kMap) {
    MapPoolBackward(grad_pooled);
  } else {
    TokenPoolBackward(grad_pooled);
  }
}

void VitBuilder::TokenPoolBackward(const TensorView& grad_pooled) {
  program_.Add(PanelBeginArgs{batch_});
  const TensorView grad_y = New("grad.encoded", compute_, rows_, width_);
  if (m_.pool == PoolKind::kGap) {
    program_.Add(MeanPoolGradArgs{grad_pooled, batch_, tokens_, grad_y});
  } else {
    program_.Add(SelectTokenGradArgs{grad_pooled, batch_, tokens_, 0, grad_y});
  }
  NormBackward("Transformer/encoder_norm", encoder_norm_, grad_y);
  program_.Add(PanelEndArgs{});
}

void VitBuilder::MapPoolBackward(const TensorView& grad_pooled) {
  const std::string at = "MAPHead_0", attention = at + "/MultiHeadDotProductAttention_0",
                    mlp = at + "/MlpBlock_0";
  TensorView grad_y = grad_pooled;
  if (compute_ != DType::kF32) {
    grad_y = New("grad.pooled.cast", compute_, batch_, width_);
    program_.Add(CastArgs{grad_pooled, grad_y});
  }
  TensorView grad_hidden;
  const TensorView grad_norm = MlpBackwardInput(mlp, head_.mlp, grad_y, &grad_hidden);
  GradWeight(head_.mlp.hidden, grad_y, mlp + "/Dense_1");
  GradWeight(head_.norm.y, grad_hidden, mlp + "/Dense_0");
  grad_stream_ =
      grad_pooled;  // the head's stream of one row per image, until the tokens' begins below
  NormBackward(at + "/LayerNorm_0", head_.norm, grad_norm);
  const TensorView grad_out = GradInput(grad_stream_cast_, attention + "/out/kernel");
  GradWeight(head_.attention, grad_stream_cast_, attention + "/out");

  const TensorView grad_query = New("grad.query", DType::kF32, 1, width_);
  const TensorView grad_key_value = New("grad.key_value", compute_, rows_, 2 * width_);
  program_.Add(PoolAttentionGradArgs{.grad_out = grad_out,
                                     .query = head_.query,
                                     .key_value = head_.key_value,
                                     .out = head_.attention,
                                     .log_sum_exp = head_.log_sum_exp,
                                     .batch = batch_,
                                     .tokens = tokens_,
                                     .heads = m_.heads,
                                     .grad_query = grad_query,
                                     .grad_key_value = grad_key_value});
  ProbeBackward(grad_query);

  grad_stream_ = {};
  program_.Add(PanelBeginArgs{batch_});
  const TensorView grad_encoded = New("grad.encoded", compute_, rows_, width_);
  program_.Add(LinearGradInputArgs{.grad_y = grad_key_value,
                                   .weight = Heads(attention, {"key", "value"}, true, false),
                                   .grad_x = grad_encoded});
  NormBackward("Transformer/encoder_norm", encoder_norm_, grad_encoded);
  program_.Add(PanelEndArgs{});
  GradWeight(encoder_norm_.y, grad_key_value, Heads(attention, {"key", "value"}, true, true),
             Heads(attention, {"key", "value"}, false, true));
}

// The probe is to the head what a position is to the trunk: one row that every image shares. So its
// gradient is added up over micro-batches by the op that does that for positions.
void VitBuilder::ProbeBackward(const TensorView& grad_query) {
  const std::string query = "MAPHead_0/MultiHeadDotProductAttention_0/query";
  TensorView probe = Weight("MAPHead_0/probe"), grad_probe = Gradient("MAPHead_0/probe");
  probe.shape = grad_probe.shape = {1, width_};
  GradWeight(probe, grad_query, KernelGradient(query + "/kernel"), BiasGradient(query + "/bias"),
             true);
  const TensorView part = accumulate_ ? New("grad.probe", DType::kF32, 1, width_) : grad_probe;
  program_.Add(LinearGradInputArgs{.grad_y = grad_query,
                                   .weight = Kernel(query + "/kernel"),
                                   .grad_x = part,
                                   .full_precision = true});
  if (!accumulate_) return;
  program_.Add(EmbedTokensGradArgs{.grad_tokens = part,
                                   .batch = 1,
                                   .grad_embedding = New("grad.probe.unused", compute_, 1, width_),
                                   .grad_position = grad_probe,
                                   .accumulate = true});
}

// ---- trunk -------------------------------------------------------------------

void VitBuilder::BlockBackward(int i) {
  const std::string at = absl::StrCat("Transformer/encoderblock_", i);
  const std::string attention = at + "/MultiHeadDotProductAttention_0", mlp = at + "/MlpBlock_0";
  BlockTrace& b = blocks_[i];
  const TensorView grad_mlp = grad_stream_cast_;
  program_.Add(PanelBeginArgs{batch_});
  if (recompute_ == RecomputeLevel::kBlock) b = Again(i, b.norm0.x);
  TensorView grad_hidden;
  const TensorView grad_norm1 = MlpBackwardInput(mlp, b.mlp, grad_mlp, &grad_hidden);
  NormBackward(at + "/LayerNorm_1", b.norm1, grad_norm1);
  const TensorView grad_projected = grad_stream_cast_;
  const TensorView grad_out = GradInput(grad_projected, attention + "/out/kernel");
  const TensorView grad_qkv =
      New(absl::StrCat("grad.", attention, ".qkv"), compute_, rows_, 3 * width_);
  program_.Add(SelfAttentionGradArgs{.grad_out = grad_out,
                                     .qkv = b.qkv,
                                     .out = b.attention,
                                     .log_sum_exp = b.log_sum_exp,
                                     .batch = batch_,
                                     .tokens = tokens_,
                                     .heads = m_.heads,
                                     .grad_qkv = grad_qkv});
  const TensorView grad_norm0 =
      New(absl::StrCat("grad.", at, "/LayerNorm_0.y"), compute_, rows_, width_);
  program_.Add(
      LinearGradInputArgs{.grad_y = grad_qkv,
                          .weight = Heads(attention, {"query", "key", "value"}, true, false),
                          .grad_x = grad_norm0});
  NormBackward(at + "/LayerNorm_0", b.norm0, grad_norm0, /*last=*/i == 0);
  program_.Add(PanelEndArgs{});

  GradWeight(b.mlp.hidden, grad_mlp, mlp + "/Dense_1");
  GradWeight(b.norm1.y, grad_hidden, mlp + "/Dense_0");
  GradWeight(b.attention, grad_projected, attention + "/out");
  GradWeight(b.norm0.y, grad_qkv, Heads(attention, {"query", "key", "value"}, true, true),
             Heads(attention, {"query", "key", "value"}, false, true));
}

void VitBuilder::EmbedBackward() {
  EmbedTokensGradArgs embed{
      .grad_tokens = grad_stream_, .batch = batch_, .accumulate = accumulate_};
  embed.grad_embedding = New("grad.embedding", compute_, batch_ * m_.patches(), width_);
  if (m_.position == PositionKind::kLearned) {
    embed.grad_position = Gradient("pos_embedding");
    embed.grad_position.shape = {m_.patches(), width_};
  }
  if (m_.pool == PoolKind::kCls) embed.grad_class_token = BiasGradient("cls")[0];
  program_.Add(embed);
  if (recompute_ != RecomputeLevel::kNone) {
    name_prefix_ = "again.";
    Patches();
    name_prefix_.clear();
  }
  GradWeight(patches_, embed.grad_embedding, "embedding");
}

}  // namespace vitscale
