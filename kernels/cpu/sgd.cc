// SGD with momentum on the CPU (heavy ball, Polyak 1964): m = beta1 m + g, not (1 - beta1) g, as
// optax.trace.

#include <memory>

#include "kernels/cpu/update_op.h"

namespace vitscale::cpu {
namespace {

class SgdOp : public UpdateOp {
 public:
  SgdOp(const SgdApplyArgs& args, CpuOpBuilder& builder)
      : UpdateOp(args, /*factored=*/false, /*prepare_items=*/0, builder) {}

 protected:
  UpdateScalars ScalarsOf(const StepScalars& step) const override {
    UpdateScalars scalars;
    scalars.momentum_decay = MomentumDecay();
    scalars.gradient_share = 1.0f;
    return scalars;
  }
  void Update(const UpdateScalars& scalars, const UpdateTile& tile, UpdateSums* sums) override {
    kernels_.sgd(scalars, SpanOf(tile), sums);
  }
};

}  // namespace

CpuOpOr MakeCpuOp(const SgdApplyArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<SgdOp>(args, builder);
}

}  // namespace vitscale::cpu
