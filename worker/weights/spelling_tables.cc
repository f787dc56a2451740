// The tables of spelling.h. Sources: big_vision models/vit.py and utils.py; timm 1.0.31
// models/vision_transformer.py and layers/attention_pool.py; transformers 5.24
// models/siglip/modeling_siglip.py.

#include "worker/weights/spelling.h"

namespace vitscale {
namespace {

using enum Form;

Spelling BigVision() {
  Spelling s;
  s.name = "npz";
  s.title = "big_vision";
  // Parameters alone; a train state; the optimizer of flax.optim; the image tower of a pair.
  s.prefixes = {"", "params/", "opt/target/", "params/img/", "img/", "opt/target/img/"};
  s.has_sincos2d = true;
  s.tells_heads = true;
  const char* const kBlock = "Transformer/encoderblock_#/*";
  s.rows = {
      {"*", "*"},
      // Blocks stacked: models with scan=True.
      {kBlock, "Transformer/encoderblock/*", kSame, 0, 1, /*by_block=*/true},
      // Names of 2020 and 2021.
      {"pos_embedding", "Transformer/posembed_input/pos_embedding"},
      {"pos_embedding", "Transformer/pos_embedding"},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/*",
       "Transformer/encoderblock_#/MultiHeadDotProductAttention_1/*"},
      {"Transformer/encoderblock_#/LayerNorm_1/*", "Transformer/encoderblock_#/LayerNorm_2/*"},
      {"Transformer/encoderblock_#/MlpBlock_0/*", "Transformer/encoderblock_#/MlpBlock_3/*"},
      // The MAP head's pieces at top level.
      {"MAPHead_0/probe", "probe"},
      {"MAPHead_0/MultiHeadDotProductAttention_0/*", "MultiHeadDotProductAttention_0/*"},
      {"MAPHead_0/LayerNorm_0/*", "LayerNorm_0/*"},
      {"MAPHead_0/MlpBlock_0/*", "MlpBlock_0/*"},
  };
  return s;
}

Spelling Timm() {
  Spelling s;
  s.name = "timm";
  s.title = "timm";
  s.prefixes = {""};
  s.safetensors = true;
  s.rows = {
      {"embedding/kernel", "patch_embed.proj.weight", kConv},
      {"embedding/bias", "patch_embed.proj.bias"},
      {"pos_embedding", "pos_embed"},
      {"cls", "cls_token"},
      {"Transformer/encoderblock_#/LayerNorm_0/scale", "blocks.#.norm1.weight"},
      {"Transformer/encoderblock_#/LayerNorm_0/bias", "blocks.#.norm1.bias"},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/query/kernel",
       "blocks.#.attn.qkv.weight", kLinear, 0, 3},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/key/kernel",
       "blocks.#.attn.qkv.weight", kLinear, 1, 3},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/value/kernel",
       "blocks.#.attn.qkv.weight", kLinear, 2, 3},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/query/bias",
       "blocks.#.attn.qkv.bias", kVector, 0, 3},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/key/bias",
       "blocks.#.attn.qkv.bias", kVector, 1, 3},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/value/bias",
       "blocks.#.attn.qkv.bias", kVector, 2, 3},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/out/kernel",
       "blocks.#.attn.proj.weight", kLinearHeads},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/out/bias",
       "blocks.#.attn.proj.bias"},
      {"Transformer/encoderblock_#/LayerNorm_1/scale", "blocks.#.norm2.weight"},
      {"Transformer/encoderblock_#/LayerNorm_1/bias", "blocks.#.norm2.bias"},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_0/kernel", "blocks.#.mlp.fc1.weight", kLinear},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_0/bias", "blocks.#.mlp.fc1.bias"},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_1/kernel", "blocks.#.mlp.fc2.weight", kLinear},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_1/bias", "blocks.#.mlp.fc2.bias"},
      {"Transformer/encoder_norm/scale", "norm.weight"},
      {"Transformer/encoder_norm/bias", "norm.bias"},
      {"MAPHead_0/probe", "attn_pool.latent"},
      {"MAPHead_0/MultiHeadDotProductAttention_0/query/kernel", "attn_pool.q.weight", kLinear},
      {"MAPHead_0/MultiHeadDotProductAttention_0/query/bias", "attn_pool.q.bias", kVector},
      {"MAPHead_0/MultiHeadDotProductAttention_0/key/kernel", "attn_pool.kv.weight", kLinear, 0, 2},
      {"MAPHead_0/MultiHeadDotProductAttention_0/key/bias", "attn_pool.kv.bias", kVector, 0, 2},
      {"MAPHead_0/MultiHeadDotProductAttention_0/value/kernel", "attn_pool.kv.weight", kLinear, 1,
       2},
      {"MAPHead_0/MultiHeadDotProductAttention_0/value/bias", "attn_pool.kv.bias", kVector, 1, 2},
      {"MAPHead_0/MultiHeadDotProductAttention_0/out/kernel", "attn_pool.proj.weight",
       kLinearHeads},
      {"MAPHead_0/MultiHeadDotProductAttention_0/out/bias", "attn_pool.proj.bias"},
      {"MAPHead_0/LayerNorm_0/scale", "attn_pool.norm.weight"},
      {"MAPHead_0/LayerNorm_0/bias", "attn_pool.norm.bias"},
      {"MAPHead_0/MlpBlock_0/Dense_0/kernel", "attn_pool.mlp.fc1.weight", kLinear},
      {"MAPHead_0/MlpBlock_0/Dense_0/bias", "attn_pool.mlp.fc1.bias"},
      {"MAPHead_0/MlpBlock_0/Dense_1/kernel", "attn_pool.mlp.fc2.weight", kLinear},
      {"MAPHead_0/MlpBlock_0/Dense_1/bias", "attn_pool.mlp.fc2.bias"},
      {"head/kernel", "head.weight", kLinear},
      {"head/bias", "head.bias"},
  };
  return s;
}

Spelling HfSiglip() {
  Spelling s;
  s.name = "hf";
  s.title = "HF SigLIP";
  s.prefixes = {"vision_model.", ""};  // a pair or transformers 4; the vision model of 5 alone
  s.safetensors = true;
  s.ignorable = {"embeddings.position_ids"};  // 0, 1, 2, …
  s.rows = {
      {"embedding/kernel", "embeddings.patch_embedding.weight", kConv},
      {"embedding/bias", "embeddings.patch_embedding.bias"},
      {"pos_embedding", "embeddings.position_embedding.weight", kRows},
      {"Transformer/encoderblock_#/LayerNorm_0/scale", "encoder.layers.#.layer_norm1.weight"},
      {"Transformer/encoderblock_#/LayerNorm_0/bias", "encoder.layers.#.layer_norm1.bias"},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/query/kernel",
       "encoder.layers.#.self_attn.q_proj.weight", kLinear},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/query/bias",
       "encoder.layers.#.self_attn.q_proj.bias", kVector},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/key/kernel",
       "encoder.layers.#.self_attn.k_proj.weight", kLinear},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/key/bias",
       "encoder.layers.#.self_attn.k_proj.bias", kVector},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/value/kernel",
       "encoder.layers.#.self_attn.v_proj.weight", kLinear},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/value/bias",
       "encoder.layers.#.self_attn.v_proj.bias", kVector},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/out/kernel",
       "encoder.layers.#.self_attn.out_proj.weight", kLinearHeads},
      {"Transformer/encoderblock_#/MultiHeadDotProductAttention_0/out/bias",
       "encoder.layers.#.self_attn.out_proj.bias"},
      {"Transformer/encoderblock_#/LayerNorm_1/scale", "encoder.layers.#.layer_norm2.weight"},
      {"Transformer/encoderblock_#/LayerNorm_1/bias", "encoder.layers.#.layer_norm2.bias"},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_0/kernel", "encoder.layers.#.mlp.fc1.weight",
       kLinear},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_0/bias", "encoder.layers.#.mlp.fc1.bias"},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_1/kernel", "encoder.layers.#.mlp.fc2.weight",
       kLinear},
      {"Transformer/encoderblock_#/MlpBlock_0/Dense_1/bias", "encoder.layers.#.mlp.fc2.bias"},
      {"Transformer/encoder_norm/scale", "post_layernorm.weight"},
      {"Transformer/encoder_norm/bias", "post_layernorm.bias"},
      {"MAPHead_0/probe", "head.probe"},
      {"MAPHead_0/MultiHeadDotProductAttention_0/query/kernel", "head.attention.in_proj_weight",
       kLinear, 0, 3},
      {"MAPHead_0/MultiHeadDotProductAttention_0/query/bias", "head.attention.in_proj_bias",
       kVector, 0, 3},
      {"MAPHead_0/MultiHeadDotProductAttention_0/key/kernel", "head.attention.in_proj_weight",
       kLinear, 1, 3},
      {"MAPHead_0/MultiHeadDotProductAttention_0/key/bias", "head.attention.in_proj_bias", kVector,
       1, 3},
      {"MAPHead_0/MultiHeadDotProductAttention_0/value/kernel", "head.attention.in_proj_weight",
       kLinear, 2, 3},
      {"MAPHead_0/MultiHeadDotProductAttention_0/value/bias", "head.attention.in_proj_bias",
       kVector, 2, 3},
      {"MAPHead_0/MultiHeadDotProductAttention_0/out/kernel", "head.attention.out_proj.weight",
       kLinearHeads},
      {"MAPHead_0/MultiHeadDotProductAttention_0/out/bias", "head.attention.out_proj.bias"},
      {"MAPHead_0/LayerNorm_0/scale", "head.layernorm.weight"},
      {"MAPHead_0/LayerNorm_0/bias", "head.layernorm.bias"},
      {"MAPHead_0/MlpBlock_0/Dense_0/kernel", "head.mlp.fc1.weight", kLinear},
      {"MAPHead_0/MlpBlock_0/Dense_0/bias", "head.mlp.fc1.bias"},
      {"MAPHead_0/MlpBlock_0/Dense_1/kernel", "head.mlp.fc2.weight", kLinear},
      {"MAPHead_0/MlpBlock_0/Dense_1/bias", "head.mlp.fc2.bias"},
  };
  return s;
}

}  // namespace

const std::vector<Spelling>& Spellings() {
  static const auto* spellings = new std::vector<Spelling>{BigVision(), Timm(), HfSiglip()};
  return *spellings;
}

}  // namespace vitscale
