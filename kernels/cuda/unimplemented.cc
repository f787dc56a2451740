// Ops that have no CUDA kernels yet: whoever adds them takes the line away. Weak, so that it may go
// later.

#include "kernels/cuda/cuda_op.h"

namespace vitscale::cuda {

#define VITSCALE_UNIMPLEMENTED(Args)                                       \
  __attribute__((weak)) CudaOpOr MakeCudaOp(const Args&, CudaOpBuilder&) { \
    return absl::UnimplementedError(#Args " has no CUDA kernel");          \
  }

VITSCALE_UNIMPLEMENTED(ImagesToPatchesArgs)
VITSCALE_UNIMPLEMENTED(EmbedTokensArgs)
VITSCALE_UNIMPLEMENTED(EmbedTokensGradArgs)
VITSCALE_UNIMPLEMENTED(LayerNormArgs)
VITSCALE_UNIMPLEMENTED(ResidualLayerNormArgs)
VITSCALE_UNIMPLEMENTED(LayerNormGradArgs)
VITSCALE_UNIMPLEMENTED(MeanPoolArgs)
VITSCALE_UNIMPLEMENTED(MeanPoolGradArgs)
VITSCALE_UNIMPLEMENTED(SelectTokenArgs)
VITSCALE_UNIMPLEMENTED(SelectTokenGradArgs)
VITSCALE_UNIMPLEMENTED(TanhArgs)
VITSCALE_UNIMPLEMENTED(TanhGradArgs)
VITSCALE_UNIMPLEMENTED(SigmoidLossArgs)
VITSCALE_UNIMPLEMENTED(SoftmaxLossArgs)
VITSCALE_UNIMPLEMENTED(PolyakAverageArgs)
VITSCALE_UNIMPLEMENTED(DigestArgs)
VITSCALE_UNIMPLEMENTED(FillArgs)
VITSCALE_UNIMPLEMENTED(CopyArgs)
VITSCALE_UNIMPLEMENTED(CastArgs)

}  // namespace vitscale::cuda
