// Instruction sets of the CPU backend and how a kernel is compiled once for each.
//
// A file named *_simd.cc is compiled three times (kernels/cpu/CMakeLists.txt) with VITSCALE_SIMD
// defined as avx2, avx512 or avx512_bf16, which is also the namespace that its code must live in.
// The rest of the program is compiled for baseline x86-64. So a *_simd.cc file includes nothing but
// this header, kernels/cpu/simd.h, headers of plain structs and <cstdint>/<cmath>/<cstring>: an
// inline function of Abseil or the standard library that was compiled with AVX-512 could be the
// copy that the linker keeps for everybody.
//
// Per kernel family:
//   foo.h        struct FooKernels { void (*forward)(…); … };
//                const FooKernels& FooKernelsFor(Isa isa);
//   foo_simd.cc  namespace vitscale::cpu::VITSCALE_SIMD { extern const FooKernels kFooKernels; … }
//   foo.cc       VITSCALE_SIMD_TABLE(FooKernels, kFooKernels, FooKernelsFor)  outside any namespace,
//                then the op (cpu_op.h)

#ifndef KERNELS_CPU_ISA_H_
#define KERNELS_CPU_ISA_H_

#include <cstdint>

namespace vitscale::cpu {

enum class Isa : uint8_t { kAvx2, kAvx512, kAvx512Bf16 };
inline constexpr int kIsaCount = 3;

constexpr const char* IsaName(Isa isa) {
  constexpr const char* kNames[] = {"avx2", "avx512", "avx512_bf16"};
  return kNames[static_cast<int>(isa)];
}

// Whether this machine can run it; the best it can run. kAvx2 needs AVX2, FMA and F16C; kAvx512 F,
// BW, DQ, VL.
bool IsaSupported(Isa isa);
Isa BestIsa();

// Storage of one bf16 value, so that kernels can be overloaded and templated on (const Bf16*, const
// float*).
struct Bf16 {
  uint16_t bits;
};

}  // namespace vitscale::cpu

// Declares the three tables and defines `const Type& Getter(Isa)`. Use outside any namespace, in a
// plain .cc file.
#define VITSCALE_SIMD_TABLE(Type, name, Getter) \
  namespace vitscale::cpu {                     \
  namespace avx2 {                              \
  extern const Type name;                       \
  }                                             \
  namespace avx512 {                            \
  extern const Type name;                       \
  }                                             \
  namespace avx512_bf16 {                       \
  extern const Type name;                       \
  }                                             \
  const Type& Getter(Isa isa) {                 \
    switch (isa) {                              \
      case Isa::kAvx2:                          \
        return avx2::name;                      \
      case Isa::kAvx512:                        \
        return avx512::name;                    \
      case Isa::kAvx512Bf16:                    \
        return avx512_bf16::name;               \
    }                                           \
    return avx2::name;                          \
  }                                             \
  } /* namespace vitscale::cpu */

#endif  // KERNELS_CPU_ISA_H_
