// What the three optimizers share: the gate, the clip, tiles of elements, norms in a fixed order,
// and, when the program goes on with PrepareWeights, the packing of rows while they are in cache.

#ifndef KERNELS_CPU_UPDATE_OP_H_
#define KERNELS_CPU_UPDATE_OP_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "kernels/base/bf16.h"
#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/optimizer.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/factored_shape.h"

namespace vitscale::cpu {

// One tensor of the update.
struct UpdateTensor {
  UpdateSpan all;
  double learning_rate = 0.0;
  double weight_decay = 0.0;
  bool factored = false;
  FactoredShape shape;  // when factored
  // The weight that it is a part of, when its rows are packed here: [in, columns].
  const WeightKey* weight = nullptr;
  size_t part = 0;
  int64_t columns = 0;

  // Elements that one unit of UpdateTile's begin and end stands for.
  int64_t unit() const { return factored ? shape.row_length() : 1; }
};

// A piece of one tensor: elements, or rows along axis a (counted over outer * a) of a factored one.
// Never crosses `outer`.
struct UpdateTile {
  int tensor = 0;
  int64_t begin = 0, end = 0;
};

// Phases: what Prepare says (before tiles), the tiles, and, when a norm is asked for, its sum over
// tiles.
class UpdateOp : public CpuOp {
 public:
  int phases() const override { return tile_phase_ + 1 + (wants_sums_ ? 1 : 0); }
  int64_t items(int phase) const override;
  void Run(const RunContext& context, int phase, int64_t begin, int64_t end) override;

 protected:
  // `prepare_items`: of a phase that runs before the tiles; 0 for none. `factored`: cut factored
  // tensors by rows.
  UpdateOp(const OptimizerArgs& args, bool factored, int64_t prepare_items, CpuOpBuilder& builder);

  // What all tensors share; learning rate and weight decay are filled in per tile.
  virtual UpdateScalars ScalarsOf(const StepScalars& step) const = 0;
  virtual void Prepare(const UpdateScalars& scalars, int64_t item) {}
  virtual void Update(const UpdateScalars& scalars, const UpdateTile& tile, UpdateSums* sums) = 0;

  // What the stored momentum is multiplied by: beta1 as bf16. In optax 0.2.8 the Python number
  // beta1 meets a bf16 array and becomes a bf16 number itself; XLA then multiplies in f32 without
  // rounding the product (tests/golden/optimizer_decay.py).
  float MomentumDecay() const { return FromBf16(ToBf16(static_cast<float>(beta1_))); }
  // 1 - beta1, where beta1 is not rounded first.
  float GradientShare() const { return static_cast<float>(1.0 - beta1_); }

  // The elements of a tile that is not cut by rows.
  UpdateSpan SpanOf(const UpdateTile& tile) const;
  // The factor of the clip alone: 1, or clip_norm / norm.
  double ClipFactor() const;

  const OptimizerKernels& kernels_;
  std::vector<UpdateTensor> tensors_;
  double beta1_;

 private:
  void SumTiles();
  void TakeRows(const PrepareWeightsArgs& next, CpuOpBuilder& builder);
  void PackTile(const UpdateTile& tile) const;

  float clip_norm_;
  const double* square_sum_;
  double* parameter_square_sum_;
  double* update_square_sum_;
  bool wants_sums_;
  int tile_phase_;
  int64_t prepare_items_;
  std::vector<UpdateTile> tiles_;
  UpdateSums* sums_ = nullptr;  // one per tile
  std::set<WeightKey> packed_;  // weights whose rows are packed here
  const PackedWeights& weights_;
};

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_UPDATE_OP_H_
