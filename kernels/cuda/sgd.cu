// SGD with momentum on CUDA. Contract: SgdApplyArgs in kernels/ops.h. Reference:
// kernels/cpu/sgd.cc.
//
//   variant   chosen when   bytes per parameter         floor on an H100 (3.35 TB/s)
//   runs      always        g 4, m 2 + 2, p 4 + 4: 16   S/16 (23.8 M): 381 MB, 114 us
//
// Launches: 3 (scalars, update, norms).

#include "kernels/cuda/update_op.h"

namespace vitscale::cuda {
namespace {

// m = beta1 m + g, not (1 - beta1) g.
struct SgdRule {
  static constexpr bool kMoment = false;
  __device__ static void Fill(const UpdateConstants& constants, const StepScalars& step,
                              UpdateScalars& s) {
    s.gradient_share = 1.0f;
  }
  __device__ static float Step(const UpdateScalars& s, float g, float& m, float& v) {
    return m = NewMomentum(s, g, m);
  }
};

}  // namespace

CudaOpOr MakeCudaOp(const SgdApplyArgs& args, CudaOpBuilder& builder) {
  return MakeRunsOp<SgdRule>(MakeUpdatePlan(args, /*factored=*/false, builder), builder);
}

}  // namespace vitscale::cuda
