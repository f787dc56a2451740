#include "worker/model/vit.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/types/span.h"
#include "kernels/base/status.h"
#include "worker/model/activations.h"
#include "worker/model/vit_builder.h"

namespace vitscale {
namespace {

// ---- buckets -----------------------------------------------------------------

struct BucketSurvey {
  const std::vector<Bucket>& buckets;
  std::vector<int> ready;  // by bucket: the op after which it is final
  int end = 0;

  static void Visit(void* context, TensorView& view, bool written) {
    auto& survey = *static_cast<BucketSurvey*>(context);
    if (view.arena != Arena::kGradients || !written) return;
    int bucket = 0;
    while (view.offset >= survey.buckets[bucket].offset_bytes + survey.buckets[bucket].bytes)
      ++bucket;
    survey.ready[bucket] = std::max(survey.ready[bucket], survey.end);
  }
};

// Puts GradientsReady behind the last writer of each bucket (behind its panel group), in bucket
// order.
Program MarkBuckets(Program program, const std::vector<Bucket>& buckets) {
  const std::vector<int> ends = GroupEnds(program);
  BucketSurvey survey{buckets, std::vector<int>(buckets.size(), 0)};
  std::vector<Op>& ops = program.mutable_ops();
  for (size_t i = 0; i < ops.size(); ++i) {
    survey.end = ends[i];
    VisitOperands(ops[i], &survey, BucketSurvey::Visit);
  }
  Program marked;
  size_t bucket = 0;
  for (size_t i = 0; i < ops.size(); ++i) {
    marked.mutable_ops().push_back(std::move(ops[i]));
    while (bucket < buckets.size() && survey.ready[bucket] <= static_cast<int>(i)) {
      marked.Add(GradientsReadyArgs{static_cast<int>(bucket++)});
    }
  }
  return marked;
}

// ---- optimizer ---------------------------------------------------------------

double DecayOf(DecayGroup group, const OptimizerConfig& optimizer) {
  switch (group) {
    case DecayGroup::kNone:
      return 0;
    case DecayGroup::kBody:
      return optimizer.decay_body;
    case DecayGroup::kHead:
      return optimizer.decay_head;
  }
  return 0;
}

std::vector<OptimizedTensor> OptimizedTensors(const ModelLayout& layout,
                                              const OptimizerConfig& optimizer) {
  std::vector<OptimizedTensor> tensors;
  tensors.reserve(layout.table.parameters().size());
  for (const Parameter& p : layout.table.parameters()) {
    OptimizedTensor t;
    t.parameter = layout.table.ParameterView(p);
    t.gradient = layout.table.GradientView(p);
    t.momentum = layout.table.MomentumView(p);
    t.second_moment = layout.table.SecondMomentView(p);
    if (layout.optimizer == OptimizerKind::kAdafactor) t.factoring = p.factoring;
    t.learning_rate = optimizer.learning_rate;
    t.weight_decay = optimizer.learning_rate * DecayOf(p.decay, optimizer);
    tensors.push_back(std::move(t));
  }
  return tensors;
}

int64_t FactoredElements(const std::vector<OptimizedTensor>& tensors) {
  int64_t elements = 0;
  for (const OptimizedTensor& t : tensors) {
    if (t.factoring.factored) elements += t.second_moment.elements();
  }
  return elements;
}

TensorView WholeArena(const ModelLayout& layout, Arena arena, DType dtype, int64_t elements) {
  return {ArenaName(arena), arena, 0, dtype, {elements}};
}

// Every weight that the matmuls of a step name, each once.
std::vector<WeightParts> WeightsOf(const ModelLayout& layout) {
  VitBuilder builder(layout, /*training=*/true, /*accumulate=*/false);
  builder.Forward();
  builder.Loss();
  builder.Backward();
  const Program step = builder.Finish();
  std::vector<WeightParts> weights;
  absl::flat_hash_set<int64_t> seen;  // offset of the first part
  const auto note = [&](const WeightParts& weight) {
    if (seen.insert(weight[0].offset).second) weights.push_back(weight);
  };
  for (const Op& op : step.ops()) {
    if (const auto* linear = std::get_if<LinearArgs>(&op)) note(linear->weight);
    if (const auto* grad = std::get_if<LinearGradInputArgs>(&op)) note(grad->weight);
  }
  return weights;
}

}  // namespace

Program BuildStep(const ModelLayout& layout, MicroBatch micro_batch) {
  VitBuilder builder(layout, /*training=*/true, /*accumulate=*/!micro_batch.first);
  builder.Forward();
  builder.Loss();
  builder.Backward();
  Program program = builder.Finish();
  if (micro_batch.last) program = MarkBuckets(std::move(program), layout.buckets);
  AssignActivations(program);
  return program;
}

Program BuildEval(const ModelLayout& layout, bool first) {
  VitBuilder builder(layout, /*training=*/false, /*accumulate=*/!first);
  builder.Forward();
  builder.Loss();
  Program program = builder.Finish();
  AssignActivations(program);
  return program;
}

FeatureProgram BuildFeatures(const ModelLayout& layout) {
  VitBuilder builder(layout, /*training=*/false, /*accumulate=*/false);
  FeatureProgram built;
  built.features = builder.Features();
  built.program = builder.Finish();
  AssignActivations(built.program);
  // Where it was put is in the operands of the op that writes it; names of activations are unique.
  const OperandVisitor find = [](void* context, TensorView& view, bool written) {
    auto& features = *static_cast<TensorView*>(context);
    if (written && view.name == features.name) features.offset = view.offset;
  };
  for (Op& op : built.program.mutable_ops()) VisitOperands(op, &built.features, find);
  return built;
}

Program BuildUpdate(const ModelLayout& layout, const OptimizerConfig& optimizer) {
  VITSCALE_CHECK(optimizer.kind == layout.optimizer)
      << "layout is for " << OptimizerKindName(layout.optimizer);
  OptimizerArgs args;
  args.tensors = OptimizedTensors(layout, optimizer);
  args.gradient_square_sum = layout.statistics.gradient_square_sum;
  args.parameter_square_sum = layout.statistics.parameter_square_sum;
  args.update_square_sum = layout.statistics.update_square_sum;
  args.beta1 = optimizer.beta1;
  args.clip_norm = static_cast<float>(optimizer.clip_norm);
  const int64_t factored = FactoredElements(args.tensors);
  if (factored > 0) {
    args.factored_sums = SymbolicActivations().New("factored_sums", DType::kF32, {factored});
  }
  Program program;
  program.Add(PhaseArgs{"optimizer"});
  program.Add(GradStatsArgs{args.tensors, args.gradient_square_sum, args.factored_sums});
  switch (optimizer.kind) {
    case OptimizerKind::kAdafactor:
      program.Add(AdafactorApplyArgs{args});
      break;
    case OptimizerKind::kAdamW:
      program.Add(AdamWApplyArgs{args, optimizer.beta2});
      break;
    case OptimizerKind::kSgd:
      program.Add(SgdApplyArgs{args});
      break;
  }
  program.Add(PrepareWeightsArgs{WeightsOf(layout)});
  if (layout.polyak) {
    const int64_t elements = layout.table.arena_elements();
    program.Add(PolyakAverageArgs{WholeArena(layout, Arena::kParameters, DType::kF32, elements),
                                  WholeArena(layout, Arena::kAverage, DType::kF32, elements),
                                  static_cast<float>(optimizer.polyak_decay)});
  }
  AssignActivations(program);
  return program;
}

Program BuildPrepare(const ModelLayout& layout) {
  Program program;
  program.Add(PhaseArgs{"prepare"});
  program.Add(PrepareWeightsArgs{WeightsOf(layout)});
  return program;
}

Program BuildDigest(const ModelLayout& layout) {
  const int64_t elements = layout.table.arena_elements();
  DigestArgs digest;
  digest.inputs.push_back(WholeArena(layout, Arena::kParameters, DType::kF32, elements));
  if (layout.training) {
    digest.inputs.push_back(WholeArena(layout, Arena::kMomentum, DType::kBf16, elements));
  }
  if (const int64_t second = layout.table.second_moment_arena_elements();
      layout.training && second > 0) {
    digest.inputs.push_back(WholeArena(layout, Arena::kSecondMoment, DType::kF32, second));
  }
  digest.digest = layout.statistics.digest;
  Program program;
  program.Add(PhaseArgs{"digest"});
  program.Add(std::move(digest));
  return program;
}

std::vector<float> Sincos2dPositions(const ModelConfig& model) {
  const int64_t grid = model.grid(), quarter = model.width / 4;
  std::vector<float> positions(model.patches() * model.width);
  for (int64_t token = 0; token < model.patches(); ++token) {
    const double x = token % grid, y = token / grid;
    float* row = &positions[token * model.width];
    for (int64_t i = 0; i < quarter; ++i) {
      const double omega =
          quarter > 1 ? std::pow(10000.0, -static_cast<double>(i) / (quarter - 1)) : 1;
      row[i] = std::sin(x * omega);
      row[quarter + i] = std::cos(x * omega);
      row[2 * quarter + i] = std::sin(y * omega);
      row[3 * quarter + i] = std::cos(y * omega);
    }
  }
  return positions;
}

absl::Status WriteConstants(const ModelLayout& layout, Backend& backend) {
  if (!layout.input.position.present()) return absl::OkStatus();
  const std::vector<float> positions = Sincos2dPositions(layout.model);
  const auto* bytes = reinterpret_cast<const std::byte*>(positions.data());
  return backend.Write(layout.input.position, {bytes, positions.size() * sizeof(float)});
}

}  // namespace vitscale
