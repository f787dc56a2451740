// What network: the plain description that every part of the engine reads. A variant of the paper
// by name, or a shape of one's own, and around it the input, the head and the loss.
//
// Sources: arXiv 2106.04560 table 2; big_vision models/vit.py (decode_variant and the model
// itself).

#ifndef WORKER_MODEL_MODEL_CONFIG_H_
#define WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/tensor.h"

namespace vitscale {

enum class PoolKind : uint8_t { kMap, kGap, kCls };         // which token or tokens the head sees
enum class LossKind : uint8_t { kSigmoid, kSoftmax };       // sigmoid: summed over classes
enum class PositionKind : uint8_t { kLearned, kSincos2d };  // sincos2d has no parameter
enum class Precision : uint8_t {
  kAuto,
  kBf16,
  kF32
};  // of matmul inputs; kAuto is resolved before planning

// The numbers behind a variant's name.
struct ModelShape {
  int patch = 0;  // side in pixels
  int width = 0;  // channels of the residual stream
  int depth = 0;  // blocks
  int heads = 0;
  int mlp_width = 0;
};

struct ModelConfig {
  int image_size = 224;  // side of the square input in pixels, after cropping
  int channels = 3;
  int patch = 0;
  int width = 0;
  int depth = 0;
  int heads = 0;
  int mlp_width = 0;
  int classes = 0;
  PoolKind pool = PoolKind::kMap;
  LossKind loss = LossKind::kSigmoid;
  PositionKind position = PositionKind::kLearned;
  double head_bias = 0;         // initial value of every head bias
  int representation_size = 0;  // width of a tanh layer before the head; 0: none
  // What the residual stream is stored in. bf16: half the memory; each sum is made in f32 and
  // rounded, and everything else about it stays f32 (statistics, its gradient).
  DType residual = DType::kF32;

  void SetShape(const ModelShape& shape);
  int64_t grid() const {
    return patch > 0 ? image_size / patch : 0;
  }  // patches along a side (VALID)
  int64_t patches() const { return grid() * grid(); }
  int64_t tokens() const { return patches() + (pool == PoolKind::kCls ? 1 : 0); }
  int64_t head_dim() const { return heads > 0 ? width / heads : 0; }
  int64_t patch_elements() const { return int64_t{patch} * patch * channels; }
  int64_t head_input() const { return representation_size > 0 ? representation_size : width; }
};

// "S/16" -> its shape. The part before the slash is a size of VariantNames(), case-sensitive ("s"
// and "S", "g" and "G" differ); after it stands the patch side, 1 to 256. NOT_FOUND names the
// nearest sizes. ViT-22B is not here: its block is another one (attention and MLP in parallel,
// normalised queries and keys).
absl::StatusOr<ModelShape> VariantByName(absl::string_view name);

// The named variants of the paper and of big_vision, smallest first: "mu/16", "s/28", …, "e/14".
std::vector<std::string> VariantNames();

// INVALID_ARGUMENT names the first field that is out of range, what it was and what was wanted.
absl::Status ValidateModel(const ModelConfig& model);

DType ComputeDType(Precision precision);  // kBf16 -> bf16, else f32

constexpr const char* PoolName(PoolKind kind) {
  constexpr const char* kNames[] = {"map", "gap", "cls"};
  return kNames[static_cast<int>(kind)];
}
constexpr const char* LossName(LossKind kind) {
  constexpr const char* kNames[] = {"sigmoid", "softmax"};
  return kNames[static_cast<int>(kind)];
}
constexpr const char* PositionName(PositionKind kind) {
  constexpr const char* kNames[] = {"learned", "sincos2d"};
  return kNames[static_cast<int>(kind)];
}
constexpr const char* PrecisionName(Precision precision) {
  constexpr const char* kNames[] = {"auto", "bf16", "f32"};
  return kNames[static_cast<int>(precision)];
}

}  // namespace vitscale

#endif  // WORKER_MODEL_MODEL_CONFIG_H_
