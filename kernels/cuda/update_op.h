// What the three optimizers share: the gate, the clip, the table of tensors, norms in a fixed
// order. Contract: OptimizerArgs in kernels/ops.h. Reference: kernels/cpu/update_op.cc and
// optimizer_simd.cc; the arithmetic of an element is the same, operation by operation.
//
// Launches of an update: MakeScalars (one thread: what all elements share, from StepScalars and the
// norm), for Adafactor the factored moments, the update itself, and the norms. Every kernel but the
// first looks at UpdateScalars::go and does nothing when it is 0: the gate was closed, or the norm
// is not finite.

#ifndef KERNELS_CUDA_UPDATE_OP_H_
#define KERNELS_CUDA_UPDATE_OP_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/status.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/dialect/block.h"
#include "kernels/cuda/dialect/launch.h"
#include "kernels/cuda/parameter_grid.h"

namespace vitscale::cuda {

// A number as the sum of two floats: what it multiplies is rounded once.
struct SplitFloat {
  float value = 0.0f, rest = 0.0f;
};
__device__ inline SplitFloat Split(double number) {
  const float value = static_cast<float>(number);
  return {value, static_cast<float>(number - value)};
}
__device__ inline float Times(SplitFloat a, float x) { return fmaf(a.value, x, a.rest * x); }

// Fixed when a program is prepared.
struct UpdateConstants {
  float momentum_decay = 0.0f;  // beta1 as bf16: kernels/cpu/update_op.h says why
  double gradient_share = 0.0;  // what a new value weighs in the momentum
  double beta1 = 0.0, beta2 = 0.0;
  float clip_norm = 0.0f;
  float epsilon = 0.0f;
};

// What all elements of a step share, in device memory.
struct UpdateScalars {
  int go = 0;
  double schedule = 1.0;
  double clip = 1.0;                  // the factor of the clip alone
  double gradient_scale_exact = 1.0;  // 1 / batch and the clip in one
  SplitFloat gradient_scale;          // the same
  float momentum_decay = 0.0f;
  float gradient_share = 0.0f;
  double beta2 = 0.0;
  SplitFloat moment_decay, square_share;  // beta2 and 1 - beta2
  float momentum_correction = 1.0f, moment_correction = 1.0f, epsilon = 0.0f;  // AdamW
};

struct UpdateTensor {
  const float* gradient = nullptr;
  Bf16* momentum = nullptr;
  float* parameter = nullptr;
  float* second_moment = nullptr;  // full; null for SGD and factored tensors
  int64_t count = 0;
  double learning_rate = 0.0, weight_decay = 0.0;
  bool factored = false;
  ParameterGrid grid;                     // when factored, and the factors
  const float* row_factors = nullptr;     // [outer, a, runs]
  const float* column_factors = nullptr;  // [outer, row_length]
};

struct UpdateSums {
  double parameter = 0.0, update = 0.0;
};

struct UpdateShared {
  WarpSlots<double> slots;
};

// The tables of an update and where its norms go.
struct UpdatePlan {
  std::vector<UpdateTensor> tensors;
  std::vector<WorkItem> items;
  UpdateConstants constants;
  const double* gradient_square_sum = nullptr;
  double* parameter_square_sum = nullptr;  // may be null, as the next
  double* update_square_sum = nullptr;
  UpdateScalars* scalars = nullptr;
  UpdateSums* slots = nullptr;  // one per item
};
// `factored`: whether factored tensors are cut into cells, else everything is runs.
UpdatePlan MakeUpdatePlan(const OptimizerArgs& args, bool factored, CudaOpBuilder& builder);

// Adds up the slots of the items and writes the norms that are asked for.
absl::Status LaunchUpdateSums(const UpdatePlan& plan, cudaStream_t stream);

// ---- device -------------------------------------------------------------------------------------

// Of one tensor in one step.
struct TensorRates {
  SplitFloat learning_rate;
  float weight_decay = 0.0f;
};
__device__ inline TensorRates RatesOf(const UpdateTensor& tensor, const UpdateScalars& scalars) {
  return {Split(scalars.schedule * tensor.learning_rate),
          static_cast<float>(scalars.schedule * tensor.weight_decay)};
}

// The new full second moment: an average that does not drift however many steps it is taken.
__device__ inline float NewMoment(const UpdateScalars& s, float square, float old) {
  return fmaf(s.moment_decay.value, old,
              fmaf(s.moment_decay.rest, old, Times(s.square_share, square)));
}
__device__ inline float NewMomentum(const UpdateScalars& s, float share, float old) {
  return fmaf(s.momentum_decay, old, share);
}
// From the new momentum on, all rules are the same.
__device__ inline void TakeOff(const TensorRates& rates, float direction, float& parameter,
                               UpdateSums& sums) {
  const float update = fmaf(rates.weight_decay, parameter, Times(rates.learning_rate, direction));
  parameter -= update;
  sums.parameter += static_cast<double>(parameter) * parameter;
  sums.update += static_cast<double>(update) * update;
}

// A rule is a struct of device functions:
//   kMoment                        whether it has a full second moment
//   Fill(constants, step, s)       what MakeScalars adds for it
//   Step(s, g, m, v)               from the scaled gradient: new m and v; returns the direction
//
// One run of a tensor. Bytes per parameter: g 4, m 2 + 2, p 4 + 4, v 4 + 4.
template <typename Rule>
__device__ inline UpdateSums UpdateRun(const UpdateTensor& tensor, int64_t run,
                                       const UpdateScalars& s) {
  const TensorRates rates = RatesOf(tensor, s);
  const int64_t begin = run * kRunElements;
  const int64_t end = begin + kRunElements < tensor.count ? begin + kRunElements : tensor.count;
  UpdateSums sums;
  for (int64_t at = begin + 4 * threadIdx.x; at < end; at += 4 * kGridThreads) {
    const FourElements four = FourOfRun(at, end);
    float g[4], m[4], p[4], v[4] = {};
    LoadFourOfRun(tensor.gradient + at, four, g);
    LoadFourOfRun(tensor.momentum + at, four, m);
    LoadFourOfRun(tensor.parameter + at, four, p);
    if constexpr (Rule::kMoment) LoadFourOfRun(tensor.second_moment + at, four, v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= four.valid) continue;
      const float direction = Rule::Step(s, Times(s.gradient_scale, g[i]), m[i], v[i]);
      TakeOff(rates, direction, p[i], sums);
    }
    StoreFourOfRun(tensor.momentum + at, four, m);
    StoreFourOfRun(tensor.parameter + at, four, p);
    if constexpr (Rule::kMoment) StoreFourOfRun(tensor.second_moment + at, four, v);
  }
  return sums;
}

// Every thread's sums to the slot of this block.
__device__ inline void StoreSums(const UpdateSums& mine, UpdateSums* slots) {
  WarpSlots<double>& shared = SharedMemory<UpdateShared>().slots;
  const double parameter = BlockSum(mine.parameter, shared);
  const double update = BlockSum(mine.update, shared);
  if (threadIdx.x == 0) slots[blockIdx.x] = {parameter, update};
}

// As optax.clip_by_global_norm: a norm below the limit leaves the gradient as it is; no epsilon.
__device__ inline double ClipFactor(double square_sum, float clip_norm) {
  const double norm = sqrt(square_sum);
  return clip_norm > 0.0f && norm >= clip_norm ? clip_norm / norm : 1.0;
}

template <typename Rule>
__global__ void MakeScalars(UpdateConstants constants, const StepScalars* step,
                            const double* square_sum, UpdateScalars* scalars) {
  UpdateScalars s;
  s.go = step->apply != 0 && std::isfinite(*square_sum) ? 1 : 0;
  s.schedule = step->schedule;
  s.clip = ClipFactor(*square_sum, constants.clip_norm);
  s.gradient_scale_exact = static_cast<double>(step->gradient_scale) * s.clip;
  s.gradient_scale = Split(s.gradient_scale_exact);
  s.momentum_decay = constants.momentum_decay;
  s.gradient_share = static_cast<float>(constants.gradient_share);
  Rule::Fill(constants, *step, s);
  *scalars = s;
}

template <typename Rule>
__global__ void __launch_bounds__(kGridThreads)
    UpdateRuns(const UpdateTensor* tensors, const WorkItem* items, const UpdateScalars* scalars,
               UpdateSums* slots) {
  const UpdateScalars s = *scalars;  // copies, which stores to parameters cannot change
  if (s.go == 0) return;
  const WorkItem item = items[blockIdx.x];
  const UpdateTensor tensor = tensors[item.tensor];
  StoreSums(UpdateRun<Rule>(tensor, item.cell, s), slots);
}

// ---- host ---------------------------------------------------------------------------------------

template <typename Rule>
absl::Status LaunchScalars(const UpdatePlan& plan, const RunContext& context) {
  return Launch(MakeScalars<Rule>, 1, 1, 0, context.stream, plan.constants, context.scalars,
                plan.gradient_square_sum, plan.scalars);
}

// The op of a rule that factors nothing.
template <typename Rule>
CudaOpOr MakeRunsOp(const UpdatePlan& plan, CudaOpBuilder& builder) {
  const auto* tensors = OnDevice(plan.tensors, builder);
  const auto* items = OnDevice(plan.items, builder);
  const auto blocks = static_cast<unsigned>(plan.items.size());
  return MakeOp(DescribeTensors(plan.tensors, plan.items.size()),
                [=](const RunContext& context) -> absl::Status {
                  VITSCALE_RETURN_IF_ERROR(LaunchScalars<Rule>(plan, context));
                  if (blocks > 0) {
                    VITSCALE_RETURN_IF_ERROR(Launch(UpdateRuns<Rule>, blocks, kGridThreads,
                                                    sizeof(UpdateShared), context.stream, tensors,
                                                    items, plan.scalars, plan.slots));
                  }
                  return LaunchUpdateSums(plan, context.stream);
                });
}

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_UPDATE_OP_H_
