// Copies elements between bf16 and f32 memory, whichever the two operands are.

#ifndef KERNELS_CPU_CONVERT_H_
#define KERNELS_CPU_CONVERT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/tensor.h"

namespace vitscale::cpu {

inline void Convert(const ElementwiseKernels& kernels, DType from_type, const void* from,
                    DType to_type, void* to, int64_t count) {
  if (from_type == to_type) {
    std::memcpy(to, from, count * DTypeBytes(to_type));
  } else if (to_type == DType::kBf16) {
    kernels.to_bf16(static_cast<const float*>(from), static_cast<Bf16*>(to), count);
  } else {
    kernels.to_f32(static_cast<const Bf16*>(from), static_cast<float*>(to), count);
  }
}

// Memory of an operand whose dtype is known at run time.
template <typename Byte>  // std::byte or const std::byte
struct AnyMatrix {
  Byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t columns = 0;
  Byte* Row(int64_t row) const { return data + row * columns * DTypeBytes(dtype); }
};

}  // namespace vitscale::cpu

#endif  // KERNELS_CPU_CONVERT_H_
