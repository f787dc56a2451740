// VitBuilder: the forward pass up to the classifier (vit_head.cc). Source: big_vision models/vit.py.
//
// Panel groups: the embedding, each block, and pooling up to what is one row per image. The
// residual add of a half block is done by the LayerNorm that follows it. In evaluation the stream
// is updated in place. What a recompute level does not keep simply has no reader in backward, so
// that its lifetime ends here.

#include "absl/strings/str_cat.h"
#include "worker/model/vit_builder.h"

namespace vitscale {
namespace {

constexpr char kTrunk[] = "Transformer/encoderblock_";
constexpr char kAttention[] = "/MultiHeadDotProductAttention_0";

}  // namespace

VitBuilder::VitBuilder(const ModelLayout& layout, bool training, bool accumulate)
    : layout_(layout),
      m_(layout.model),
      training_(training),
      accumulate_(accumulate),
      recompute_(training ? layout.recompute : RecomputeLevel::kNone),
      compute_(ComputeDType(layout.precision)),
      batch_(layout.batch),
      tokens_(layout.model.tokens()),
      rows_(layout.batch * layout.model.tokens()),
      width_(layout.model.width),
      keeps_(training) {}

Program VitBuilder::Finish() { return std::move(program_); }

void VitBuilder::Forward() {
  Trunk();
  Pool();
  Representation();
}

TensorView VitBuilder::Features() {
  Trunk();
  Pool();
  Representation();
  return head_.representation.present() ? head_.representation : head_.unrounded;
}

void VitBuilder::Trunk() {
  program_.Add(PhaseArgs{"forward"});
  EmbedForward();
  for (int i = 0; i < m_.depth; ++i) BlockForward(i);
}

void VitBuilder::EmbedForward() {
  const int64_t patch_rows = batch_ * m_.patches();
  const TensorView embedding = New("embedding", compute_, patch_rows, width_);
  stream_ = New("blocks.0.input", m_.residual, rows_, width_);
  TensorView position = layout_.input.position;
  if (m_.position == PositionKind::kLearned) {
    position = Weight("pos_embedding");
    position.shape = {m_.patches(), width_};
  }
  TensorView class_token;
  if (m_.pool == PoolKind::kCls) class_token = Bias("cls")[0];

  program_.Add(PanelBeginArgs{batch_});
  Patches();
  program_.Add(LinearArgs{.x = patches_,
                          .weight = Kernel("embedding/kernel"),
                          .bias = Bias("embedding/bias"),
                          .y = embedding});
  program_.Add(EmbedTokensArgs{.embedding = embedding,
                               .position = position,
                               .class_token = class_token,
                               .batch = batch_,
                               .tokens = stream_});
  program_.Add(PanelEndArgs{});
}

void VitBuilder::Patches() {
  patches_ = New("patches", compute_, batch_ * m_.patches(), m_.patch_elements());
  program_.Add(ImagesToPatchesArgs{.images = layout_.input.images,
                                   .augment = layout_.input.augment,
                                   .crop_height = m_.image_size,
                                   .crop_width = m_.image_size,
                                   .patch = m_.patch,
                                   .range_min = layout_.range_min,
                                   .range_max = layout_.range_max,
                                   .patches = patches_});
}

NormTrace VitBuilder::NormOf(const std::string& at, const TensorView& x, DType y_dtype) {
  NormTrace norm;
  norm.x = x;
  norm.mean = Kept(absl::StrCat(at, ".mean"), DType::kF32, {x.rows()});
  norm.inv_std = Kept(absl::StrCat(at, ".inv_std"), DType::kF32, {x.rows()});
  norm.y = New(absl::StrCat(at, ".y"), y_dtype, x.rows(), width_);
  return norm;
}

NormTrace VitBuilder::Norm(const std::string& at, DType y_dtype) {
  const TensorView gamma = Weight(at + "/scale"), beta = Weight(at + "/bias");
  if (!delta_.present()) {
    const NormTrace norm = NormOf(at, stream_, y_dtype);
    program_.Add(LayerNormArgs{.x = norm.x,
                               .gamma = gamma,
                               .beta = beta,
                               .y = norm.y,
                               .mean = norm.mean,
                               .inv_std = norm.inv_std});
    return norm;
  }
  const TensorView sum =
      training_ ? New(absl::StrCat(at, ".sum"), m_.residual, rows_, width_) : stream_;
  const NormTrace norm = NormOf(at, sum, y_dtype);
  program_.Add(ResidualLayerNormArgs{.x = stream_,
                                     .delta = delta_,
                                     .sum = sum,
                                     .gamma = gamma,
                                     .beta = beta,
                                     .y = norm.y,
                                     .mean = norm.mean,
                                     .inv_std = norm.inv_std});
  stream_ = sum;
  delta_ = {};
  return norm;
}

MlpTrace VitBuilder::MlpHidden(const std::string& at, const TensorView& x) {
  MlpTrace mlp;
  mlp.pre_activation =
      Kept(absl::StrCat(at, ".pre_activation"), compute_, {x.rows(), m_.mlp_width});
  mlp.hidden = New(absl::StrCat(at, ".hidden"), compute_, x.rows(), m_.mlp_width);
  program_.Add(LinearArgs{.x = x,
                          .weight = Kernel(at + "/Dense_0/kernel"),
                          .bias = Bias(at + "/Dense_0/bias"),
                          .epilogue = LinearEpilogue::kGelu,
                          .pre_activation = mlp.pre_activation,
                          .y = mlp.hidden});
  return mlp;
}

BlockTrace VitBuilder::UpToHidden(int i) {
  const std::string at = absl::StrCat(kTrunk, i), attention = at + kAttention;
  BlockTrace b;
  b.norm0 = Norm(at + "/LayerNorm_0", compute_);
  b.qkv = New(attention + ".qkv", compute_, rows_, 3 * width_);
  program_.Add(LinearArgs{.x = b.norm0.y,
                          .weight = Heads(attention, {"query", "key", "value"}, true, false),
                          .bias = Heads(attention, {"query", "key", "value"}, false, false),
                          .y = b.qkv});
  b.attention = New(attention + ".out", compute_, rows_, width_);
  b.log_sum_exp = Kept(attention + ".log_sum_exp", DType::kF32, {batch_, m_.heads, tokens_});
  program_.Add(SelfAttentionArgs{.qkv = b.qkv,
                                 .batch = batch_,
                                 .tokens = tokens_,
                                 .heads = m_.heads,
                                 .out = b.attention,
                                 .log_sum_exp = b.log_sum_exp});
  delta_ = New(attention + ".delta", compute_, rows_, width_);
  program_.Add(LinearArgs{.x = b.attention,
                          .weight = Kernel(attention + "/out/kernel"),
                          .bias = Bias(attention + "/out/bias"),
                          .y = delta_});
  b.norm1 = Norm(at + "/LayerNorm_1", compute_);
  b.mlp = MlpHidden(at + "/MlpBlock_0", b.norm1.y);
  return b;
}

void VitBuilder::BlockForward(int i) {
  const std::string mlp = absl::StrCat(kTrunk, i, "/MlpBlock_0");
  program_.Add(PanelBeginArgs{batch_});
  keeps_ = training_ && recompute_ != RecomputeLevel::kBlock;
  BlockTrace b = UpToHidden(i);
  keeps_ = training_;
  b.norm0.y_again = b.norm1.y_again = b.mlp.hidden_again =
      recompute_ == RecomputeLevel::kGeluAndLayerNorm;
  delta_ = New(mlp + ".delta", compute_, rows_, width_);
  program_.Add(LinearArgs{.x = b.mlp.hidden,
                          .weight = Kernel(mlp + "/Dense_1/kernel"),
                          .bias = Bias(mlp + "/Dense_1/bias"),
                          .y = delta_});
  program_.Add(PanelEndArgs{});
  blocks_.push_back(std::move(b));
}

BlockTrace VitBuilder::Again(int i, const TensorView& input) {
  name_prefix_ = "again.";
  stream_ = input;
  delta_ = {};
  BlockTrace b = UpToHidden(i);
  name_prefix_.clear();
  return b;
}

void VitBuilder::Pool() {
  if (m_.pool == PoolKind::kMap) {
    MapPool();
  } else {
    TokenPool();
  }
}

// The probe's projection is the same for every image: one row, in f32, outside of the panels.
void VitBuilder::MapPool() {
  const std::string at = "MAPHead_0", attention = at + kAttention, mlp = at + "/MlpBlock_0";
  TensorView probe = Weight(at + "/probe");
  probe.shape = {1, width_};
  head_.query = New(attention + ".query", DType::kF32, 1, width_);
  program_.Add(LinearArgs{.x = probe,
                          .weight = Kernel(attention + "/query/kernel"),
                          .bias = Bias(attention + "/query/bias"),
                          .y = head_.query,
                          .full_precision = true});

  program_.Add(PanelBeginArgs{batch_});
  encoder_norm_ = Norm("Transformer/encoder_norm", compute_);
  encoder_norm_.y_again = recompute_ != RecomputeLevel::kNone;
  head_.key_value = New(attention + ".key_value", compute_, rows_, 2 * width_);
  program_.Add(LinearArgs{.x = encoder_norm_.y,
                          .weight = Heads(attention, {"key", "value"}, true, false),
                          .bias = Heads(attention, {"key", "value"}, false, false),
                          .y = head_.key_value});
  head_.attention = New(attention + ".out", compute_, batch_, width_);
  head_.log_sum_exp = Kept(attention + ".log_sum_exp", DType::kF32, {batch_, m_.heads});
  program_.Add(PoolAttentionArgs{.query = head_.query,
                                 .key_value = head_.key_value,
                                 .batch = batch_,
                                 .tokens = tokens_,
                                 .heads = m_.heads,
                                 .out = head_.attention,
                                 .log_sum_exp = head_.log_sum_exp});
  program_.Add(PanelEndArgs{});

  const TensorView x = New(attention + ".projected", DType::kF32, batch_, width_);
  program_.Add(LinearArgs{.x = head_.attention,
                          .weight = Kernel(attention + "/out/kernel"),
                          .bias = Bias(attention + "/out/bias"),
                          .y = x});
  const std::string norm = at + "/LayerNorm_0";
  head_.norm = NormOf(norm, x, compute_);
  program_.Add(LayerNormArgs{.x = x,
                             .gamma = Weight(norm + "/scale"),
                             .beta = Weight(norm + "/bias"),
                             .y = head_.norm.y,
                             .mean = head_.norm.mean,
                             .inv_std = head_.norm.inv_std});
  head_.mlp = MlpHidden(mlp, head_.norm.y);
  const TensorView pooled = New("pooled", DType::kF32, batch_, width_);
  program_.Add(LinearArgs{.x = head_.mlp.hidden,
                          .weight = Kernel(mlp + "/Dense_1/kernel"),
                          .bias = Bias(mlp + "/Dense_1/bias"),
                          .epilogue = LinearEpilogue::kResidual,
                          .residual = x,
                          .y = pooled});
  head_.unrounded = head_.pooled = pooled;
  if (compute_ == DType::kF32) return;
  head_.pooled = New("pooled.cast", compute_, batch_, width_);
  program_.Add(CastArgs{pooled, head_.pooled});
}

void VitBuilder::TokenPool() {
  program_.Add(PanelBeginArgs{batch_});
  encoder_norm_ = Norm("Transformer/encoder_norm", compute_);
  head_.pooled = New("pooled", compute_, batch_, width_);
  if (m_.pool == PoolKind::kGap) {
    program_.Add(MeanPoolArgs{encoder_norm_.y, batch_, tokens_, head_.pooled});
  } else {
    program_.Add(SelectTokenArgs{encoder_norm_.y, batch_, tokens_, 0, head_.pooled});
  }
  program_.Add(PanelEndArgs{});
  head_.unrounded = head_.pooled;
}

void VitBuilder::Representation() {
  if (m_.representation_size == 0) return;
  const TensorView pre = New("pre_logits", compute_, batch_, m_.representation_size);
  program_.Add(LinearArgs{.x = head_.pooled,
                          .weight = Kernel("pre_logits/kernel"),
                          .bias = Bias("pre_logits/bias"),
                          .y = pre});
  head_.representation = New("representation", compute_, batch_, m_.representation_size);
  program_.Add(TanhArgs{pre, head_.representation});
}

}  // namespace vitscale
