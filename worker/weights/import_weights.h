// Weights of other programs as ours.

#ifndef WORKER_WEIGHTS_IMPORT_WEIGHTS_H_
#define WORKER_WEIGHTS_IMPORT_WEIGHTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/files.h"
#include "worker/weights/guess_model.h"
#include "worker/weights/weight_file.h"
#include "worker/weights/weights.h"

namespace vitscale {

struct ImportOptions {
  std::string format = "auto";  // or the name of a Spelling
  ModelHints hints;
  // Leaves the file's head out, if it has one: the kernel becomes zero and every bias head_bias,
  // for hints.classes classes (1 if not given). Without it the file must have a head, of
  // hints.classes classes where they are given.
  bool without_head = false;
};

struct ImportedWeights {
  Weights weights;
  std::string title;                 // of the spelling
  std::string prefix;                // below which the names were found
  std::vector<std::string> ignored;  // tensors of the file that are no part of this model
  std::vector<std::string> notes;    // what was concluded, resampled or added, one sentence each
};

// Reads a whole file or nothing. Kept: every value bit for bit (bf16 widened). Changed: positions
// are resampled when the grid of hints.image_size is another one; positions with the class token's
// in front lose it to the class token, which is the same sum.
//
// Errors: INVALID_ARGUMENT with every missing, misshapen, unreadable and unknown tensor by name;
// and those of FindDialect, GuessModel and OpenWeightFile.
absl::StatusOr<ImportedWeights> ImportWeights(FileSystem& fs, const std::string& path,
                                              const ImportOptions& options,
                                              const Progress& progress = nullptr);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_IMPORT_WEIGHTS_H_
