// The grammar of preprocessing: "op|op(1,2)", big_vision's. What an op does is worker/data's matter
// (worker/data/preprocess.h); which ops exist, what arguments they take, which of them draw random
// numbers and what size they leave is said here, so that a bad job is refused at submit. The one
// parser: the engine gets the ops as structs, through worker/config.

#ifndef PROTO_SPEC_PREPROCESS_H_
#define PROTO_SPEC_PREPROCESS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vitscale {

struct PreprocessOp {
  std::string name;
  std::vector<double> arguments;

  bool operator==(const PreprocessOp&) const = default;
};

// Errors: INVALID_ARGUMENT; UNIMPLEMENTED for an op of big_vision that this version does not run.
// decode_jpeg_and_inception_crop is read as inception_crop.
absl::StatusOr<std::vector<PreprocessOp>> ParsePreprocessOps(absl::string_view text);

// The one way to write it: no spaces, shortest numbers.
std::string FormatPreprocess(const std::vector<PreprocessOp>& ops);

// Without `decode` (every image is decoded) and without arguments that are the defaults;
// value_range(-1,1) at the end if there is no range.
std::vector<PreprocessOp> CanonicalOps(std::vector<PreprocessOp> ops);

// Draws random numbers: not for evaluations.
bool IsRandomOp(const PreprocessOp& op);

// What an evaluation uses by default: the training ops without chance.
//   inception_crop(n), with all size ops before it   resize_small(m)|central_crop(n)
//     the same for few-shot                          resize(m)|central_crop(n)
//   random_crop(n)                                   central_crop(n)
//   flip_lr                                          left out
// with m = round(n * 256 / 224), as big_vision's configurations evaluate at 224
// (configs/vit_s16_i1k.py, configs/common_fewshot.py).
std::vector<PreprocessOp> EvaluationOps(const std::vector<PreprocessOp>& train, bool few_shot);

// Do the ops leave images of image_size x image_size, as far as it is known before an image is
// seen? `any_size`: images come in sizes of their own (files in folders); else all have one, not
// known here. INVALID_ARGUMENT says what they leave instead.
absl::Status CheckFinalSize(const std::vector<PreprocessOp>& ops, bool any_size, int image_size);

}  // namespace vitscale

#endif  // PROTO_SPEC_PREPROCESS_H_
