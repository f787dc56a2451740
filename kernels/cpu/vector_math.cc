#include "kernels/cpu/vector_math_table.h"

VITSCALE_SIMD_TABLE(VectorMathKernels, kVectorMathKernels, VectorMathKernelsFor)
