// AdamW on the CPU, as optax.scale_by_adam with mu_dtype bf16: both moments are corrected for their
// bias, epsilon stands outside the root, and the update uses the first moment before it is rounded.
// Weight decay is not multiplied by the learning rate here: OptimizedTensor::weight_decay is what a
// step takes off.

#include <cmath>
#include <memory>

#include "kernels/cpu/update_op.h"

namespace vitscale::cpu {
namespace {

class AdamWOp : public UpdateOp {
 public:
  AdamWOp(const AdamWApplyArgs& args, CpuOpBuilder& builder)
      : UpdateOp(args, /*factored=*/false, /*prepare_items=*/0, builder),
        beta2_(args.beta2),
        epsilon_(args.epsilon) {}

 protected:
  UpdateScalars ScalarsOf(const StepScalars& step) const override {
    const double t = static_cast<double>(step.step + 1);
    UpdateScalars scalars;
    scalars.momentum_decay = MomentumDecay();
    scalars.gradient_share = GradientShare();
    scalars.moment_decay = SplitFloat(beta2_);
    scalars.square_share = SplitFloat(1.0 - beta2_);
    scalars.epsilon = epsilon_;
    scalars.momentum_correction = static_cast<float>(1.0 / (1.0 - std::pow(beta1_, t)));
    scalars.moment_correction = static_cast<float>(1.0 / (1.0 - std::pow(beta2_, t)));
    return scalars;
  }
  void Update(const UpdateScalars& scalars, const UpdateTile& tile, UpdateSums* sums) override {
    kernels_.adamw(scalars, SpanOf(tile), sums);
  }

 private:
  double beta2_;
  float epsilon_;
};

}  // namespace

CpuOpOr MakeCpuOp(const AdamWApplyArgs& args, CpuOpBuilder& builder) {
  return std::make_unique<AdamWOp>(args, builder);
}

}  // namespace vitscale::cpu
