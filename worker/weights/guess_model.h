// What model a file of weights is of, from the names and shapes of its tensors.

#ifndef WORKER_WEIGHTS_GUESS_MODEL_H_
#define WORKER_WEIGHTS_GUESS_MODEL_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/model_config.h"
#include "worker/weights/spelling.h"
#include "worker/weights/weight_file.h"

namespace vitscale {

// Which spelling, below which prefix.
struct Dialect {
  const Spelling* spelling = nullptr;
  std::string prefix;
};
// By the name of the patch kernel. `format` is "auto" or the name of a spelling. INVALID_ARGUMENT
// if no such name is there.
absl::StatusOr<Dialect> FindDialect(const std::vector<WeightTensor>& tensors,
                                    absl::string_view format);

// What is known beforehand; it has precedence over the file.
struct ModelHints {
  std::optional<ModelShape> shape;
  int heads = 0;       // 0: by shape, by the file, or that of the named variant of the same size
  int image_size = 0;  // 0: that of the file's grid of positions (224 with sincos2d)
  int classes = 0;     // 0: those of the file's head
  std::optional<PoolKind> pool;
  std::optional<PositionKind> position;
  std::optional<int> representation_size;
  LossKind loss = LossKind::kSigmoid;  // no file tells
  double head_bias = 0;
};

struct ModelGuess {
  ModelConfig model;               // passes ValidateModel
  int64_t file_grid = 0;           // patches along a side of the file's positions; 0: it has none
  bool class_token_first = false;  // its positions have one more in front, of the class token
  std::vector<std::string> notes;  // what was concluded rather than read
};

// INVALID_ARGUMENT: the heads cannot be known, positions on no square grid, a shape out of range.
absl::StatusOr<ModelGuess> GuessModel(const std::vector<WeightTensor>& tensors,
                                      const Dialect& dialect, const ModelHints& hints);

// "S/16" if a named variant has this shape, else empty.
std::string VariantOf(const ModelConfig& model);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_GUESS_MODEL_H_
