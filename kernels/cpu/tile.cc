#include "kernels/cpu/tile.h"

VITSCALE_SIMD_TABLE(TileKernels, kTileKernelsF32, TileKernelsF32For)
VITSCALE_SIMD_TABLE(TileKernels, kTileKernelsBf16, TileKernelsBf16For)

namespace vitscale::cpu {

const TileKernels& TileKernelsFor(Isa isa, bool bf16) {
  return bf16 ? TileKernelsBf16For(isa) : TileKernelsF32For(isa);
}

}  // namespace vitscale::cpu
