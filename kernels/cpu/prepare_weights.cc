// PrepareWeights on the CPU. Contract: packed_weights.h.

#include <xmmintrin.h>

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_op.h"
#include "kernels/cpu/packed_weights.h"

namespace vitscale::cpu {
namespace {

// An item is a slab of a weight, or what is not packed by rows of one whose rows were packed
// before.
class PrepareWeightsOp : public CpuOp {
 public:
  PrepareWeightsOp(std::vector<WeightKey> keys, const std::set<WeightKey>& rows_left,
                   const PackedWeights& weights)
      : keys_(std::move(keys)), weights_(weights) {
    for (size_t i = 0; i < keys_.size(); ++i) {
      if (rows_left.count(keys_[i]) > 0) {
        slabs_.push_back({i, kBlobs});
        continue;
      }
      for (int64_t slab = 0; slab < PackedWeights::Slabs(keys_[i]); ++slab)
        slabs_.push_back({i, slab});
    }
  }
  int64_t items(int /*phase*/) const override { return static_cast<int64_t>(slabs_.size()); }
  void Run(const RunContext& context, int /*phase*/, int64_t begin, int64_t end) override {
    for (int64_t i = begin; i < end; ++i) {
      const auto [key, slab] = slabs_[i];
      slab == kBlobs ? weights_.PackBlobs(keys_[key], context.scratch)
                     : weights_.Pack(keys_[key], slab, context.scratch);
    }
    _mm_sfence();
  }

 private:
  static constexpr int64_t kBlobs = -1;
  struct Slab {
    size_t key;
    int64_t slab;
  };
  std::vector<WeightKey> keys_;
  std::vector<Slab> slabs_;
  const PackedWeights& weights_;
};

}  // namespace

CpuOpOr MakeCpuOp(const PrepareWeightsArgs& args, CpuOpBuilder& builder) {
  std::vector<WeightKey> keys;
  for (const WeightParts& weight : args.weights) {
    keys.push_back(BindWeight(weight, builder));
    builder.RequestScratch(PackedWeights::BlobBytes(keys.back()));
  }
  return std::make_unique<PrepareWeightsOp>(std::move(keys), builder.TakeLeftRows(),
                                            builder.weights());
}

}  // namespace vitscale::cpu
