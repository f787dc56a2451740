// How other programs call our parameters and how they lay them out: one table per format. All that
// is particular to a format stands in its table; import and export only walk over it.
//
//   big_vision  models/vit.py of 2020 to today: Flax names, kernels (in, out); the names of
//               param_table.h are its names
//   timm        VisionTransformer of timm 1.0: q, k and v in one, kernels (out, in), OIHW patches
//   HF SigLIP   SiglipVisionModel of transformers 4 and 5: the MAP head's q, k and v in one
//
// A name pattern may hold one "#" (the number of a block) and end in "*" (any rest, taken over).

#ifndef WORKER_WEIGHTS_SPELLING_H_
#define WORKER_WEIGHTS_SPELLING_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace vitscale {

// What theirs looks like, where ours has `in` axes before `out` axes.
enum class Form : uint8_t {
  kSame,         // as ours
  kVector,       // all axes in one: [heads, head_dim] -> [width]
  kRows,         // without the leading 1: [1, tokens, width] -> [tokens, width]
  kLinear,       // [in, out...] -> [out, in], transposed
  kLinearHeads,  // [heads, head_dim, out] -> [out, in], transposed
  kConv,         // [height, width, in, out] -> [out, in, height, width]
};

struct SpellingRow {
  const char* ours;    // pattern of a name of param_table.h
  const char* theirs;  // pattern of a name in the file, without prefix
  Form form = Form::kSame;
  int part = 0, parts = 1;  // theirs is `parts` of ours, one behind the other along its first axis
  bool by_block = false;    // theirs has the blocks as a new first axis ("scan")
};

struct Spelling {
  const char* name;                    // on the command line: "npz", "timm", "hf"
  const char* title;                   // "big_vision"
  std::vector<const char*> prefixes;   // before every name; export writes the first
  std::vector<SpellingRow> rows;       // the first that fits a parameter is the one that is written
  std::vector<const char*> ignorable;  // names below the prefix that are no parameters
  bool safetensors = false;            // container on export; else .npz
  bool has_sincos2d = false;           // a model without pos_embedding computes sincos2d positions
  bool tells_heads = false;            // shapes say how many heads there are
};

const std::vector<Spelling>& Spellings();
// NOT_FOUND names those that there are.
absl::StatusOr<const Spelling*> SpellingByName(absl::string_view name);

// Where a parameter lies in a file.
struct Place {
  std::string name;  // without prefix
  Form form = Form::kSame;
  int64_t part = 0, parts = 1;
  bool by_block = false;
};
// Every place that the table knows for a parameter of ours, the one to write first. `depth`: blocks
// of the model.
std::vector<Place> PlacesOf(const Spelling& spelling, absl::string_view ours, int64_t depth);

// What the patterns of the rows say about a name in the file (without prefix): the name of ours and
// the row; with by_block the block is 0. Empty: nothing fits.
struct Meaning {
  std::string ours;
  const SpellingRow* row = nullptr;
};
std::vector<Meaning> MeaningsOf(const Spelling& spelling, absl::string_view theirs);

// The shape in the file of a tensor at `place` that is `ours` here.
Shape TheirShape(const Place& place, const Shape& ours);

// Copies between `ours` (shape `shape`, row-major) and its part of `theirs` (all of the tensor).
void CopyFromTheirs(const Place& place, const Shape& shape, absl::Span<const float> theirs,
                    absl::Span<float> ours);
void CopyToTheirs(const Place& place, const Shape& shape, absl::Span<const float> ours,
                  absl::Span<float> theirs);

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_SPELLING_H_
