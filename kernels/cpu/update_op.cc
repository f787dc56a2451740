// See update_op.h. The gate: nothing is touched, not even a norm, when StepScalars::apply is 0 or
// the norm of the gradient is not finite.

#include "kernels/cpu/update_op.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <variant>

VITSCALE_SIMD_TABLE(OptimizerKernels, kOptimizerKernels, OptimizerKernelsFor)

namespace vitscale::cpu {
namespace {

constexpr int64_t kElementsPerTile = 64 * 1024;
// Of a weight that is packed: what one transposition takes.
constexpr int64_t kRowsPacked = 16;
static_assert(kRowsPacked % PackedWeights::kRowGrain == 0);

UpdateTensor MakeTensor(const OptimizedTensor& tensor, bool factored, CpuOpBuilder& builder) {
  UpdateTensor result;
  result.all.gradient = builder.Memory<const float>(tensor.gradient);
  result.all.momentum = builder.Memory<Bf16>(tensor.momentum);
  result.all.parameter = builder.Memory<float>(tensor.parameter);
  result.all.second_moment = builder.Memory<float>(tensor.second_moment);
  result.all.count = tensor.parameter.elements();
  result.learning_rate = tensor.learning_rate;
  result.weight_decay = tensor.weight_decay;
  result.factored = factored && tensor.factoring.factored;
  if (result.factored) result.shape = FactoredShapeOf(tensor.parameter.shape, tensor.factoring);
  return result;
}

// Cuts [begin, end) into tiles of at most `size`.
void AppendTiles(int tensor, int64_t begin, int64_t end, int64_t size,
                 std::vector<UpdateTile>& tiles) {
  for (int64_t at = begin; at < end; at += size)
    tiles.push_back({tensor, at, std::min(at + size, end)});
}

// About kElementsPerTile elements, in units of UpdateTile; of a packed weight kRowsPacked rows or
// a multiple.
int64_t TileSize(const UpdateTensor& tensor) {
  const int64_t size = std::max<int64_t>(1, kElementsPerTile / tensor.unit());
  if (tensor.weight == nullptr) return size;
  const int64_t grain = kRowsPacked * (tensor.factored ? 1 : tensor.columns);
  return std::max<int64_t>(1, size / grain) * grain;
}

std::vector<UpdateTile> MakeTiles(const std::vector<UpdateTensor>& tensors) {
  std::vector<UpdateTile> tiles;
  for (int i = 0; i < static_cast<int>(tensors.size()); ++i) {
    const int64_t size = TileSize(tensors[i]);
    if (!tensors[i].factored) {
      AppendTiles(i, 0, tensors[i].all.count, size, tiles);
      continue;
    }
    const FactoredShape& shape = tensors[i].shape;
    for (int64_t o = 0; o < shape.outer; ++o)
      AppendTiles(i, o * shape.a, (o + 1) * shape.a, size, tiles);
  }
  return tiles;
}

// Whether tiles of `tensor` are whole pairs of rows of a weight with `columns`.
bool CutsByRows(const UpdateTensor& tensor, int64_t columns) {
  if (!tensor.factored) return true;
  const FactoredShape& shape = tensor.shape;
  const int64_t rows = shape.a * shape.row_length() / columns;  // before the next `outer`
  return shape.row_length() % columns == 0 &&
         (shape.outer == 1 || rows % PackedWeights::kRowGrain == 0);
}

}  // namespace

UpdateOp::UpdateOp(const OptimizerArgs& args, bool factored, int64_t prepare_items,
                   CpuOpBuilder& builder)
    : kernels_(OptimizerKernelsFor(builder.isa())),
      beta1_(args.beta1),
      clip_norm_(args.clip_norm),
      square_sum_(builder.Memory<const double>(args.gradient_square_sum)),
      parameter_square_sum_(builder.Memory<double>(args.parameter_square_sum)),
      update_square_sum_(builder.Memory<double>(args.update_square_sum)),
      wants_sums_(args.parameter_square_sum.present() || args.update_square_sum.present()),
      tile_phase_(prepare_items > 0 ? 1 : 0),
      prepare_items_(prepare_items),
      weights_(builder.weights()) {
  for (const OptimizedTensor& tensor : args.tensors) {
    tensors_.push_back(MakeTensor(tensor, factored, builder));
  }
  if (const Op* next = builder.next(); next != nullptr) {
    if (const auto* prepare = std::get_if<PrepareWeightsArgs>(next)) TakeRows(*prepare, builder);
  }
  tiles_ = MakeTiles(tensors_);
  if (wants_sums_) sums_ = builder.Reserve<UpdateSums>(static_cast<int64_t>(tiles_.size()));
}

// Weights all of whose parts are tensors of this update.
void UpdateOp::TakeRows(const PrepareWeightsArgs& next, CpuOpBuilder& builder) {
  std::map<const float*, UpdateTensor*> of_memory;
  for (UpdateTensor& tensor : tensors_) of_memory[tensor.all.parameter] = &tensor;
  for (const WeightParts& parts : next.weights) {
    WeightKey key = BindWeight(parts, builder);
    bool all = true;
    for (size_t part = 0; part < key.parts.size() && all; ++part) {
      const auto found = of_memory.find(key.parts[part]);
      all = found != of_memory.end() && found->second->weight == nullptr &&
            found->second->all.count == key.in * key.outs[part] &&
            CutsByRows(*found->second, key.outs[part]);
    }
    if (!all) continue;
    const WeightKey& kept = *packed_.insert(std::move(key)).first;
    for (size_t part = 0; part < kept.parts.size(); ++part) {
      UpdateTensor& tensor = *of_memory.at(kept.parts[part]);
      tensor.weight = &kept;
      tensor.part = part;
      tensor.columns = kept.outs[part];
    }
  }
  builder.LeaveRows(packed_);
}

int64_t UpdateOp::items(int phase) const {
  if (phase < tile_phase_) return prepare_items_;
  return phase == tile_phase_ ? static_cast<int64_t>(tiles_.size()) : 1;
}

void UpdateOp::Run(const RunContext& context, int phase, int64_t begin, int64_t end) {
  if (context.scalars->apply == 0 || !std::isfinite(*square_sum_)) return;
  if (phase > tile_phase_) return SumTiles();
  UpdateScalars scalars = ScalarsOf(*context.scalars);
  const double schedule = context.scalars->schedule;
  const double scale = static_cast<double>(context.scalars->gradient_scale) * ClipFactor();
  scalars.gradient_scale_exact = scale;
  scalars.gradient_scale = SplitFloat(scale);
  for (int64_t item = begin; item < end; ++item) {
    if (phase < tile_phase_) {
      Prepare(scalars, item);
      continue;
    }
    const UpdateTile& tile = tiles_[item];
    scalars.learning_rate = SplitFloat(schedule * tensors_[tile.tensor].learning_rate);
    scalars.weight_decay = static_cast<float>(schedule * tensors_[tile.tensor].weight_decay);
    if (wants_sums_) sums_[item] = {};
    Update(scalars, tile, wants_sums_ ? &sums_[item] : nullptr);
    PackTile(tile);
  }
  _mm_sfence();
}

void UpdateOp::PackTile(const UpdateTile& tile) const {
  const UpdateTensor& tensor = tensors_[tile.tensor];
  if (tensor.weight == nullptr) return;
  const auto row = [&](int64_t at) { return at * tensor.unit() / tensor.columns; };
  weights_.PackRows(*tensor.weight, tensor.part, row(tile.begin), row(tile.end) - row(tile.begin));
}

// As optax.clip_by_global_norm: a norm below the limit leaves the gradient as it is; no epsilon.
double UpdateOp::ClipFactor() const {
  const double norm = std::sqrt(*square_sum_);
  return clip_norm_ > 0.0f && norm >= clip_norm_ ? clip_norm_ / norm : 1.0;
}

UpdateSpan UpdateOp::SpanOf(const UpdateTile& tile) const {
  UpdateSpan span = tensors_[tile.tensor].all;
  span.gradient += tile.begin;
  span.momentum += tile.begin;
  span.parameter += tile.begin;
  if (span.second_moment != nullptr) span.second_moment += tile.begin;
  span.count = tile.end - tile.begin;
  return span;
}

void UpdateOp::SumTiles() {
  UpdateSums total;
  for (size_t tile = 0; tile < tiles_.size(); ++tile) {
    total.parameter += sums_[tile].parameter;
    total.update += sums_[tile].update;
  }
  if (parameter_square_sum_ != nullptr) *parameter_square_sum_ = total.parameter;
  if (update_square_sum_ != nullptr) *update_square_sum_ = total.update;
}

}  // namespace vitscale::cpu
