#include "kernels/cpu/isa.h"

namespace vitscale::cpu {

bool IsaSupported(Isa isa) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  switch (isa) {
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx512Bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
}

Isa BestIsa() {
  if (IsaSupported(Isa::kAvx512Bf16)) return Isa::kAvx512Bf16;
  return IsaSupported(Isa::kAvx512) ? Isa::kAvx512 : Isa::kAvx2;
}

}  // namespace vitscale::cpu
