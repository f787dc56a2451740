// The parameters of a model in memory.

#ifndef WORKER_WEIGHTS_WEIGHTS_H_
#define WORKER_WEIGHTS_WEIGHTS_H_

#include <vector>

#include "absl/types/span.h"
#include "worker/model/model_config.h"
#include "worker/model/param_table.h"

namespace vitscale {

struct Weights {
  Weights() = default;
  explicit Weights(const ModelConfig& m)
      : model(m), table(m, OptimizerKind::kAdafactor), parameters(table.arena_elements()) {}

  absl::Span<float> Of(const Parameter& p) {
    return absl::MakeSpan(parameters).subspan(p.offset_elements, p.elements());
  }
  absl::Span<const float> Of(const Parameter& p) const {
    return absl::MakeConstSpan(parameters).subspan(p.offset_elements, p.elements());
  }

  ModelConfig model;
  ParamTable table;
  std::vector<float> parameters;  // the arena of `table`, gaps zero
};

}  // namespace vitscale

#endif  // WORKER_WEIGHTS_WEIGHTS_H_
