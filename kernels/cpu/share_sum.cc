#include "kernels/cpu/share_sum.h"

VITSCALE_SIMD_TABLE(ShareSumKernels, kShareSumKernels, ShareSumKernelsFor)
