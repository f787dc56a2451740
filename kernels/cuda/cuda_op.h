// How an op is implemented on CUDA. The CPU file of the same name is its reference; layernorm.cu is
// an example.
//
// MakeCudaOp runs while a program is prepared: it chooses a variant, binds operands to device
// addresses, reserves workspace, and keeps all of it in an object. Run only puts launches into the
// stream; it allocates nothing, waits for nothing and reads nothing back. What changes from step to
// step is read on the device through `scalars`. No float atomics: what is summed over blocks goes
// to a slot per block first, and a second launch adds the slots in index order. Shapes and dtypes
// were checked before (kernels/check.cc).

#ifndef KERNELS_CUDA_CUDA_OP_H_
#define KERNELS_CUDA_CUDA_OP_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/runtime/device.h"
#include "kernels/ops.h"

namespace vitscale::cuda {

class DeviceWeights;  // device_weights.h: compute copies of matmul weights
class Blas;           // blas.h: cuBLASLt

struct RunContext {
  cudaStream_t stream = nullptr;
  const StepScalars* scalars = nullptr;  // in device memory
};

class CudaOp {
 public:
  virtual ~CudaOp() = default;
  virtual absl::Status Run(const RunContext& context) = 0;
  // Which variant was chosen, and why if that is not obvious: "vector", "simple: width 50 is no
  // multiple of 8".
  virtual std::string variant() const = 0;
};

// Given to MakeCudaOp while a program is prepared, which calls it twice: first to learn how much
// memory is wanted, with addresses that must not be read or written, then to keep what it makes. It
// must ask for the same both times, and fill memory only by Constant.
class CudaOpBuilder {
 public:
  virtual ~CudaOpBuilder() = default;

  virtual const DeviceLimits& limits() const = 0;
  virtual DeviceWeights& weights() = 0;
  virtual Blas& blas() = 0;
  // Of PreparedProgram::choices(): an algorithm, or whose kernel it is.
  virtual void NoteChoice(uint64_t choice) = 0;

  // The operand's device memory; null when it is absent. Stays where it is as long as the backend
  // lives.
  template <typename T>
  T* Memory(const TensorView& view) const {
    return view.present() ? static_cast<T*>(Address(view)) : nullptr;
  }
  // `count` elements of device memory, zero-filled, aligned to 256 bytes; lives as long as the
  // prepared program.
  template <typename T>
  T* Reserve(int64_t count) {
    return static_cast<T*>(ReserveBytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // The same, filled from host memory (tables of tensors).
  template <typename T>
  const T* Constant(const T* values, int64_t count) {
    return static_cast<const T*>(ConstantBytes(values, count * static_cast<int64_t>(sizeof(T))));
  }
  // Workspace that other ops of the program use too: nothing survives Run. All ops get the same
  // address.
  virtual void* Scratch(int64_t bytes) = 0;

 protected:
  virtual void* Address(const TensorView& view) const = 0;
  virtual void* ReserveBytes(int64_t bytes) = 0;
  virtual const void* ConstantBytes(const void* values, int64_t bytes) = 0;
};

using CudaOpOr = absl::StatusOr<std::unique_ptr<CudaOp>>;

// An op whose Run is `run(context)`: most ops are a struct of pointers and a launch or two.
template <typename RunFunction>
CudaOpOr MakeOp(std::string variant, RunFunction run) {
  class Op : public CudaOp {
   public:
    Op(std::string variant, RunFunction run) : variant_(std::move(variant)), run_(std::move(run)) {}
    absl::Status Run(const RunContext& context) override { return run_(context); }
    std::string variant() const override { return variant_; }

   private:
    const std::string variant_;
    RunFunction run_;
  };
  return std::make_unique<Op>(std::move(variant), std::move(run));
}

// One overload per op, each defined in the file of its family.
CudaOpOr MakeCudaOp(const ImagesToPatchesArgs& args, CudaOpBuilder& builder);    // patches.cu
CudaOpOr MakeCudaOp(const EmbedTokensArgs& args, CudaOpBuilder& builder);        // embed.cu
CudaOpOr MakeCudaOp(const EmbedTokensGradArgs& args, CudaOpBuilder& builder);    // embed.cu
CudaOpOr MakeCudaOp(const LinearArgs& args, CudaOpBuilder& builder);             // linear.cc
CudaOpOr MakeCudaOp(const LinearGradInputArgs& args, CudaOpBuilder& builder);    // linear.cc
CudaOpOr MakeCudaOp(const LinearGradWeightArgs& args, CudaOpBuilder& builder);   // linear_grad.cc
CudaOpOr MakeCudaOp(const LayerNormArgs& args, CudaOpBuilder& builder);          // layernorm.cu
CudaOpOr MakeCudaOp(const ResidualLayerNormArgs& args, CudaOpBuilder& builder);  // layernorm.cu
CudaOpOr MakeCudaOp(const LayerNormGradArgs& args, CudaOpBuilder& builder);  // layernorm_grad.cu
CudaOpOr MakeCudaOp(const SelfAttentionArgs& args, CudaOpBuilder& builder);  // self_attention.cu
CudaOpOr MakeCudaOp(const SelfAttentionGradArgs& args,
                    CudaOpBuilder& builder);  // self_attention_grad.cu
CudaOpOr MakeCudaOp(const PoolAttentionArgs& args, CudaOpBuilder& builder);  // pool_attention.cu
CudaOpOr MakeCudaOp(const PoolAttentionGradArgs& args,
                    CudaOpBuilder& builder);                                   // pool_attention.cu
CudaOpOr MakeCudaOp(const MeanPoolArgs& args, CudaOpBuilder& builder);         // pool.cu
CudaOpOr MakeCudaOp(const MeanPoolGradArgs& args, CudaOpBuilder& builder);     // pool.cu
CudaOpOr MakeCudaOp(const SelectTokenArgs& args, CudaOpBuilder& builder);      // pool.cu
CudaOpOr MakeCudaOp(const SelectTokenGradArgs& args, CudaOpBuilder& builder);  // pool.cu
CudaOpOr MakeCudaOp(const TanhArgs& args, CudaOpBuilder& builder);             // elementwise.cu
CudaOpOr MakeCudaOp(const TanhGradArgs& args, CudaOpBuilder& builder);         // elementwise.cu
CudaOpOr MakeCudaOp(const SigmoidLossArgs& args, CudaOpBuilder& builder);      // loss.cu
CudaOpOr MakeCudaOp(const SoftmaxLossArgs& args, CudaOpBuilder& builder);      // loss.cu
CudaOpOr MakeCudaOp(const GradStatsArgs& args, CudaOpBuilder& builder);        // grad_stats.cu
CudaOpOr MakeCudaOp(const AdafactorApplyArgs& args, CudaOpBuilder& builder);   // adafactor.cu
CudaOpOr MakeCudaOp(const AdamWApplyArgs& args, CudaOpBuilder& builder);       // adamw.cu
CudaOpOr MakeCudaOp(const SgdApplyArgs& args, CudaOpBuilder& builder);         // sgd.cu
CudaOpOr MakeCudaOp(const PrepareWeightsArgs& args, CudaOpBuilder& builder);   // device_weights.cu
CudaOpOr MakeCudaOp(const PolyakAverageArgs& args, CudaOpBuilder& builder);    // elementwise.cu
CudaOpOr MakeCudaOp(const DigestArgs& args, CudaOpBuilder& builder);           // digest.cu
CudaOpOr MakeCudaOp(const FillArgs& args, CudaOpBuilder& builder);             // elementwise.cu
CudaOpOr MakeCudaOp(const CopyArgs& args, CudaOpBuilder& builder);             // elementwise.cu
CudaOpOr MakeCudaOp(const CastArgs& args, CudaOpBuilder& builder);             // elementwise.cu

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDA_OP_H_
