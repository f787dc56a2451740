// See update_op.h. The gate: nothing is touched, not even a norm, when StepScalars::apply is 0 or
// the norm of the gradient is not finite.

#include "kernels/cpu/update_op.h"

#include <algorithm>
#include <cmath>

VITSCALE_SIMD_TABLE(OptimizerKernels, kOptimizerKernels, OptimizerKernelsFor)

namespace vitscale::cpu {
namespace {

constexpr int64_t kElementsPerTile = 64 * 1024;

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

std::vector<UpdateTile> MakeTiles(const std::vector<UpdateTensor>& tensors) {
  std::vector<UpdateTile> tiles;
  for (int i = 0; i < static_cast<int>(tensors.size()); ++i) {
    if (!tensors[i].factored) {
      AppendTiles(i, 0, tensors[i].all.count, kElementsPerTile, tiles);
      continue;
    }
    const FactoredShape& shape = tensors[i].shape;
    const int64_t rows = std::max<int64_t>(1, kElementsPerTile / shape.row_length());
    for (int64_t o = 0; o < shape.outer; ++o) {
      AppendTiles(i, o * shape.a, (o + 1) * shape.a, rows, tiles);
    }
  }
  return tiles;
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
      prepare_items_(prepare_items) {
  for (const OptimizedTensor& tensor : args.tensors) {
    tensors_.push_back(MakeTensor(tensor, factored, builder));
  }
  tiles_ = MakeTiles(tensors_);
  if (wants_sums_) sums_ = builder.Reserve<UpdateSums>(static_cast<int64_t>(tiles_.size()));
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
  }
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
