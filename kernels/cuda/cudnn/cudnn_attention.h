// cuDNN's attention as a variant of SelfAttention: found, tried beside our own, timed, chosen.
//
// A shape gets cuDNN if the library is there, offers a plan for it, agrees with our own kernel on
// random data (attention_trial.h; once per process and shape) and takes less time
// (attention_times.h). Whatever fails on the way leaves our own, and the variant says why.
//
// Environment VITSCALE_CUDNN, read when an op is prepared: "auto" (default); "off": ours, nothing
// is opened; "on": cuDNN wherever it agrees, however long it takes; a value with a slash is the
// file of the library, as "auto".

#ifndef KERNELS_CUDA_CUDNN_CUDNN_ATTENTION_H_
#define KERNELS_CUDA_CUDNN_CUDNN_ATTENTION_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_op.h"
#include "kernels/cuda/cudnn/attention_operands.h"
#include "kernels/cuda/cudnn/attention_times.h"

namespace vitscale::cuda {

enum class CudnnUse { kOff, kIfFaster, kIfRight };
struct CudnnSetting {
  CudnnUse use = CudnnUse::kIfFaster;
  std::string file;
};
// Of VITSCALE_CUDNN, null where it is not set, which an empty one is too. INVALID_ARGUMENT naming the value.
absl::StatusOr<CudnnSetting> ParseCudnnSetting(const char* value);

// Of two that agree: "105.0 us, our own 120.0 us" with cuDNN, else "it takes 150.0 us, this 120.0
// us".
struct CudnnVerdict {
  bool take_cudnn = false;
  std::string why;
};
CudnnVerdict Decide(CudnnUse use, const AttentionSeconds& seconds);

// The op, by cuDNN or by `own`, whose variant is called `own_name`: "cuDNN 9.19.0: 210 us, mma
// takes 250 us" or "mma, not cuDNN: cuDNN cannot be opened: …". bf16 operands.
CudaOpOr MakeAttentionOp(const SelfAttentionArgs& args, CudaOpBuilder& builder,
                         const std::string& own_name, const AttentionForward& own);

// self_attention.cu: our own on tensor cores; head dims up to 128, bf16. For the device of this
// thread; INTERNAL where that has too little shared memory.
absl::StatusOr<AttentionForward> MmaAttention(const AttentionSize& size);

}  // namespace vitscale::cuda

#endif  // KERNELS_CUDA_CUDNN_CUDNN_ATTENTION_H_
