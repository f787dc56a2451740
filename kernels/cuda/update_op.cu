// See update_op.h.

#include "kernels/base/bf16.h"
#include "kernels/cuda/update_op.h"

namespace vitscale::cuda {
namespace {

constexpr int kSumThreads = 1024;

// One block. Thread t adds the slots t, t + 1024, …
__global__ void __launch_bounds__(kSumThreads)
    AddUpdateSums(const UpdateScalars* scalars, const UpdateSums* slots, int64_t count,
                  double* parameter_square_sum, double* update_square_sum) {
  if (scalars->go == 0) return;
  UpdateSums mine;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) {
    mine.parameter += slots[i].parameter;
    mine.update += slots[i].update;
  }
  WarpSlots<double>& shared = SharedMemory<UpdateShared>().slots;
  const double parameter = BlockSum(mine.parameter, shared);
  const double update = BlockSum(mine.update, shared);
  if (threadIdx.x != 0) return;
  if (parameter_square_sum != nullptr) *parameter_square_sum = parameter;
  if (update_square_sum != nullptr) *update_square_sum = update;
}

UpdateTensor MakeTensor(const OptimizedTensor& view, bool factored, CudaOpBuilder& builder) {
  UpdateTensor tensor;
  tensor.gradient = builder.Memory<const float>(view.gradient);
  tensor.momentum = builder.Memory<Bf16>(view.momentum);
  tensor.parameter = builder.Memory<float>(view.parameter);
  tensor.count = view.parameter.elements();
  tensor.learning_rate = view.learning_rate;
  tensor.weight_decay = view.weight_decay;
  tensor.factored = factored && view.factoring.factored;
  if (tensor.factored) {
    tensor.grid = MakeParameterGrid(FactoredShapeOf(view.parameter.shape, view.factoring));
  } else {
    tensor.second_moment = builder.Memory<float>(view.second_moment);
  }
  return tensor;
}

}  // namespace

UpdatePlan MakeUpdatePlan(const OptimizerArgs& args, bool factored, CudaOpBuilder& builder) {
  UpdatePlan plan;
  for (const OptimizedTensor& view : args.tensors) {
    AppendItems(static_cast<int>(plan.tensors.size()),
                CellCount(view.parameter.shape, factored ? view.factoring : Factoring()),
                plan.items);
    plan.tensors.push_back(MakeTensor(view, factored, builder));
  }
  plan.constants.beta1 = args.beta1;
  plan.constants.momentum_decay = FromBf16(ToBf16(static_cast<float>(args.beta1)));
  plan.constants.gradient_share = 1.0 - args.beta1;
  plan.constants.clip_norm = args.clip_norm;
  plan.gradient_square_sum = builder.Memory<const double>(args.gradient_square_sum);
  plan.parameter_square_sum = builder.Memory<double>(args.parameter_square_sum);
  plan.update_square_sum = builder.Memory<double>(args.update_square_sum);
  plan.scalars = builder.Reserve<UpdateScalars>(1);
  plan.slots = static_cast<UpdateSums*>(
      builder.Scratch(static_cast<int64_t>(plan.items.size() * sizeof(UpdateSums))));
  return plan;
}

absl::Status LaunchUpdateSums(const UpdatePlan& plan, cudaStream_t stream) {
  if (plan.parameter_square_sum == nullptr && plan.update_square_sum == nullptr) {
    return absl::OkStatus();
  }
  return Launch(AddUpdateSums, 1, kSumThreads, sizeof(UpdateShared), stream, plan.scalars,
                plan.slots, static_cast<int64_t>(plan.items.size()), plan.parameter_square_sum,
                plan.update_square_sum);
}

}  // namespace vitscale::cuda
