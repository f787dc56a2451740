// THE list of parameters: name, shape, initial value, decay, factoring, and where each lies in the
// flat arenas. Initialisation, optimizer, buckets, checkpoints, import and export all read it;
// nothing else knows a parameter.
//
// Names and shapes are those of Flax and big_vision (models/vit.py), joined by "/". Order is the
// order of use in the forward pass. Element offsets are multiples of kParameterAlignment, so that
// the same offset is a whole cache line in the f32 arenas (parameters, average) and in the bf16 one
// (momentum). Gaps between tensors stay zero. The gradient arena runs the other way round (see
// Parameter::gradient_offset): what backward finishes first is first, so that a bucket is one
// slice.

#ifndef WORKER_MODEL_PARAM_TABLE_H_
#define WORKER_MODEL_PARAM_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "worker/model/model_config.h"
#include "worker/model/optimizer_config.h"

namespace vitscale {

enum class InitKind : uint8_t {
  kConstant,         // value
  kNormal,           // value is the standard deviation
  kTruncatedNormal,  // standard normal cut at +-2, times value (lecun_normal: value = sqrt(1 /
                     // fan_in) / 0.8796…)
  kUniform,          // in (-value, value) (xavier_uniform: value = sqrt(6 / (fan_in + fan_out)))
};
struct Init {
  InitKind kind = InitKind::kConstant;
  double value = 0;
};

enum class DecayGroup : uint8_t {
  kNone,
  kBody,
  kHead
};  // kHead is head/kernel alone; the MAP head's kernels are body

struct Parameter {
  std::string name;  // "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"
  Shape shape;  // Flax: [in, out]; attention kernels [width, heads, head_dim] or [heads, head_dim,
                // width]
  Init init;
  DecayGroup decay = DecayGroup::kNone;
  Factoring factoring;          // Adafactor's rule on the shape, whatever the optimizer
  bool is_key_bias = false;     // true gradient 0 (softmax is invariant): leave out of comparisons
  int64_t offset_elements = 0;  // in parameters, momentum and average
  int64_t gradient_offset = 0;  // elements, in gradients
  int64_t second_moment_offset = 0;    // elements, in second_moment
  int64_t second_moment_elements = 0;  // factored: rows then columns; AdamW: all; SGD: 0

  int64_t elements() const { return ElementCount(shape); }
};

inline constexpr int64_t kParameterAlignment = 32;  // elements

class ParamTable {
 public:
  ParamTable() = default;
  // `model` must pass ValidateModel. Allocates nothing but the table itself: G/14 takes well under
  // a millisecond.
  ParamTable(const ModelConfig& model, OptimizerKind optimizer);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const Parameter* Find(absl::string_view name) const;  // null if there is none

  int64_t parameter_count() const { return parameter_count_; }  // without the gaps
  // Patch embedding, positions and encoder: what arXiv 2106.04560 table 2 counts. Without the MAP
  // head, the representation layer and the classifier.
  int64_t body_parameter_count() const;
  int64_t second_moment_count() const { return second_moment_count_; }  // without the gaps
  int64_t arena_elements() const {
    return arena_elements_;
  }  // parameters, gradients, momentum, average
  int64_t second_moment_arena_elements() const { return second_moment_arena_elements_; }

  // Views for programs, checkpoints and synchronisation. An absent view where there is nothing
  // (SGD's second moment).
  TensorView ParameterView(const Parameter& p) const;     // f32, Flax shape
  TensorView GradientView(const Parameter& p) const;      // f32, Flax shape
  TensorView MomentumView(const Parameter& p) const;      // bf16, Flax shape
  TensorView SecondMomentView(const Parameter& p) const;  // f32 [second_moment_elements]
  TensorView AverageView(const Parameter& p) const;       // f32, Flax shape

 private:
  std::vector<Parameter> parameters_;
  int64_t parameter_count_ = 0;
  int64_t second_moment_count_ = 0;
  int64_t arena_elements_ = 0;
  int64_t second_moment_arena_elements_ = 0;
  absl::flat_hash_map<std::string, int> by_name_;
};

// Adafactor's rule on a Flax shape: at least two axes and the second largest dim >= 32; among equal
// dims the later axis counts as larger. Source: optax factorized.py.
Factoring FactoringOf(const Shape& shape);
// Floats of the second moment under that rule.
int64_t SecondMomentElements(const Shape& shape, const Factoring& factoring);

// Initial values of one parameter, in `values` (size elements()). A pure function of (seed,
// position of the parameter in the table); tensors can be filled in any order or in parallel.
void InitializeParameter(const ParamTable& table, int index, uint64_t seed,
                         absl::Span<float> values);

// The whole arena, gaps zero. INVALID_ARGUMENT when arena.size() != table.arena_elements().
absl::Status InitializeParameters(const ParamTable& table, uint64_t seed, absl::Span<float> arena);

}  // namespace vitscale

#endif  // WORKER_MODEL_PARAM_TABLE_H_
