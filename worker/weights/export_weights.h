// Our weights as files of other programs. What ImportWeights reads back is the same bit for bit.

#ifndef WORKER_WEIGHTS_EXPORT_WEIGHTS_H_
#define WORKER_WEIGHTS_EXPORT_WEIGHTS_H_

#include <string>

#include "absl/status/status.h"
#include "kernels/base/files.h"
#include "worker/weights/spelling.h"
#include "worker/weights/weight_file.h"
#include "worker/weights/weights.h"

namespace vitscale {

struct ExportOptions {
  bool without_head = false;  // leave head/kernel and head/bias out
  bool overwrite = false;
};

// Writes `path` whole or not at all: a temporary beside it, "<path>.tmp", is synced and renamed.
// Memory: one tensor for .npz; the model once more for safetensors. sincos2d positions are written
// out for formats that have only learned ones.
//
// Errors: ALREADY_EXISTS without `overwrite`; INVALID_ARGUMENT naming every parameter for which the
// format has no place (HF SigLIP: head and class token; timm and HF: pre_logits); those of writing.
absl::Status ExportWeights(FileSystem& fs, const std::string& path, const Weights& weights,
                           const Spelling& spelling, const ExportOptions& options,
                           const Progress& progress = nullptr);

// How the other program makes the model that the file fits: one expression of Python, with the
// settings that its defaults differ in (GELU by tanh, LayerNorm before the mean).
std::string ModelExpression(const Spelling& spelling, const ModelConfig& model, bool without_head);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_EXPORT_WEIGHTS_H_
