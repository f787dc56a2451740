// How an op is implemented on the CPU. Read this, then layernorm.cc for an example.
//
// An op is work on *items*, in one or more phases. Between two phases all threads meet. In phase 0
// of an op inside a panel group an item is an image, and the executor gives Run one panel (a few
// images) at a time; the thread then runs the next op of the group on the same panel while it is in
// cache. Later phases of all ops of a group run after the group ends. Outside a group each phase is
// split over the threads as contiguous ranges of items.
//
// Bits must not depend on the number of threads nor on how items are cut into calls of Run: an item
// writes memory that no other item writes, and what is summed over items goes to a slot per item
// (Reserve) that a later phase adds up in index order:
//
//   // Phase 0: grad_x, and per item its share of grad_gamma and grad_beta. Phase 1: their sums.
//   class LayerNormGradOp : public CpuOp {
//     int phases() const override { return 2; }
//     int64_t items(int phase) const override { return phase == 0 ? tiling_.items : columns_; }
//     void Run(const RunContext&, int phase, int64_t begin, int64_t end) override;
//   };
//
//   CpuOpOr MakeCpuOp(const LayerNormGradArgs& args, CpuOpBuilder& builder) {
//     auto op = std::make_unique<LayerNormGradOp>();
//     op->tiling_ = builder.TileRows(args.x.rows());
//     op->kernels_ = &LayerNormKernelsFor(builder.isa());
//     op->x_ = builder.Memory<const float>(args.x);  // null when the operand is absent
//     op->shares_ = builder.Reserve<float>(op->tiling_.items * 2 * width);
//     return op;
//   }
//
// Shapes, dtypes and presence were checked before (kernels/check.cc): an op has no error of its own
// at run time.

#ifndef KERNELS_CPU_CPU_OP_H_
#define KERNELS_CPU_CPU_OP_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/ops.h"
#include "kernels/program.h"

namespace vitscale::cpu {

class PackedWeights;  // packed_weights.h
struct WeightKey;     // packed_weights.h

// What a call of Run knows besides its items.
struct RunContext {
  int thread = 0;
  const StepScalars* scalars = nullptr;
  std::byte* scratch =
      nullptr;  // this thread's; as large as the largest RequestScratch; nothing survives the call
};

class CpuOp {
 public:
  virtual ~CpuOp() = default;
  virtual int phases() const { return 1; }
  virtual int64_t items(int phase) const = 0;
  // Ops of one phase that write nothing another reads (weight gradients) may say so; neighbours
  // then share one barrier, and their items are shared out together, by cost.
  virtual bool independent() const { return false; }
  virtual int64_t item_cost() const { return 1; }
  // Items [begin, end) of `phase`, begin < end.
  virtual void Run(const RunContext& context, int phase, int64_t begin, int64_t end) = 0;
};

// Rows cut into items: images inside a panel group, fixed tiles outside.
struct RowTiling {
  int64_t rows = 0;
  int64_t items = 0;
  int64_t rows_per_item = 0;
  int64_t RowBegin(int64_t item) const { return item * rows_per_item; }
  int64_t RowEnd(int64_t item) const { return std::min(rows, (item + 1) * rows_per_item); }
};

inline constexpr int64_t kRowsPerTile = 128;  // outside panel groups

// Given to MakeCpuOp while a program is prepared.
class CpuOpBuilder {
 public:
  virtual ~CpuOpBuilder() = default;

  virtual Isa isa() const = 0;
  virtual int threads() const = 0;
  // Images of the enclosing panel group, 0 outside; and how many of them make a panel (1 outside).
  virtual int64_t batch() const = 0;
  virtual int64_t panel_items() const = 0;
  virtual PackedWeights& weights() = 0;
  // The op that follows in the program, null at its end.
  virtual const Op* next() const = 0;

  // An op that updates parameters says that it packs the rows of these weights itself; a
  // PrepareWeights that comes later in the program takes them over, once, and makes the rest.
  virtual void LeaveRows(std::set<WeightKey> weights) = 0;
  virtual std::set<WeightKey> TakeLeftRows() = 0;

  // For ops that work row by row and have no batch of their own.
  RowTiling TileRows(int64_t rows) const {
    if (batch() > 0) return {rows, batch(), rows / batch()};
    return {rows, (rows + kRowsPerTile - 1) / kRowsPerTile, kRowsPerTile};
  }

  // The operand's memory; null when it is absent. Stays where it is as long as the backend lives.
  template <typename T>
  T* Memory(const TensorView& view) const {
    return view.present() ? static_cast<T*>(Address(view)) : nullptr;
  }
  // `count` elements, zero-filled, on a cache line; lives as long as the prepared program.
  template <typename T>
  T* Reserve(int64_t count) {
    return static_cast<T*>(ReserveBytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // The op wants this many bytes in RunContext::scratch (on a cache line).
  virtual void RequestScratch(int64_t bytes) = 0;

 protected:
  virtual void* Address(const TensorView& view) const = 0;
  virtual void* ReserveBytes(int64_t bytes) = 0;
};

using CpuOpOr = absl::StatusOr<std::unique_ptr<CpuOp>>;

// One overload per op, each defined in the file of its family.
CpuOpOr MakeCpuOp(const ImagesToPatchesArgs& args, CpuOpBuilder& builder);  // patches.cc
CpuOpOr MakeCpuOp(const EmbedTokensArgs& args, CpuOpBuilder& builder);      // embed.cc
CpuOpOr MakeCpuOp(const EmbedTokensGradArgs& args, CpuOpBuilder& builder);  // embed.cc
CpuOpOr MakeCpuOp(const LinearArgs& args, CpuOpBuilder& builder);           // linear.cc
CpuOpOr MakeCpuOp(const LinearGradInputArgs& args, CpuOpBuilder& builder);  // linear.cc
CpuOpOr MakeCpuOp(const LinearGradWeightArgs& args,
                  CpuOpBuilder& builder);                             // linear_grad_weight.cc
CpuOpOr MakeCpuOp(const LayerNormArgs& args, CpuOpBuilder& builder);  // layernorm.cc
CpuOpOr MakeCpuOp(const ResidualLayerNormArgs& args, CpuOpBuilder& builder);  // layernorm.cc
CpuOpOr MakeCpuOp(const LayerNormGradArgs& args, CpuOpBuilder& builder);      // layernorm.cc
CpuOpOr MakeCpuOp(const SelfAttentionArgs& args, CpuOpBuilder& builder);      // self_attention.cc
CpuOpOr MakeCpuOp(const SelfAttentionGradArgs& args, CpuOpBuilder& builder);  // self_attention.cc
CpuOpOr MakeCpuOp(const PoolAttentionArgs& args, CpuOpBuilder& builder);      // pool_attention.cc
CpuOpOr MakeCpuOp(const PoolAttentionGradArgs& args, CpuOpBuilder& builder);  // pool_attention.cc
CpuOpOr MakeCpuOp(const MeanPoolArgs& args, CpuOpBuilder& builder);           // pool.cc
CpuOpOr MakeCpuOp(const MeanPoolGradArgs& args, CpuOpBuilder& builder);       // pool.cc
CpuOpOr MakeCpuOp(const SelectTokenArgs& args, CpuOpBuilder& builder);        // pool.cc
CpuOpOr MakeCpuOp(const SelectTokenGradArgs& args, CpuOpBuilder& builder);    // pool.cc
CpuOpOr MakeCpuOp(const TanhArgs& args, CpuOpBuilder& builder);               // pool.cc
CpuOpOr MakeCpuOp(const TanhGradArgs& args, CpuOpBuilder& builder);           // pool.cc
CpuOpOr MakeCpuOp(const SigmoidLossArgs& args, CpuOpBuilder& builder);        // loss.cc
CpuOpOr MakeCpuOp(const SoftmaxLossArgs& args, CpuOpBuilder& builder);        // loss.cc
CpuOpOr MakeCpuOp(const GradStatsArgs& args, CpuOpBuilder& builder);          // grad_stats.cc
CpuOpOr MakeCpuOp(const AdafactorApplyArgs& args, CpuOpBuilder& builder);     // adafactor.cc
CpuOpOr MakeCpuOp(const AdamWApplyArgs& args, CpuOpBuilder& builder);         // adamw.cc
CpuOpOr MakeCpuOp(const SgdApplyArgs& args, CpuOpBuilder& builder);           // sgd.cc
CpuOpOr MakeCpuOp(const PrepareWeightsArgs& args, CpuOpBuilder& builder);     // prepare_weights.cc
CpuOpOr MakeCpuOp(const PolyakAverageArgs& args, CpuOpBuilder& builder);      // elementwise.cc
CpuOpOr MakeCpuOp(const DigestArgs& args, CpuOpBuilder& builder);             // digest.cc
CpuOpOr MakeCpuOp(const FillArgs& args, CpuOpBuilder& builder);               // elementwise.cc
CpuOpOr MakeCpuOp(const CopyArgs& args, CpuOpBuilder& builder);               // elementwise.cc
CpuOpOr MakeCpuOp(const CastArgs& args, CpuOpBuilder& builder);               // elementwise.cc

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_CPU_OP_H_
