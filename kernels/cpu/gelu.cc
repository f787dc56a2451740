// Chooses the instruction set of GELU; the maths is in gelu_simd.cc.

#include "kernels/cpu/gelu.h"

VITSCALE_SIMD_TABLE(GeluKernels, kGeluKernels, GeluKernelsFor)
