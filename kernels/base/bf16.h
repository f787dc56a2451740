// bfloat16: the upper half of an f32. 8 significant bits, so one rounding is at most 2^-8 relative (half an ulp).

#ifndef KERNELS_BASE_BF16_H_
#define KERNELS_BASE_BF16_H_

#include <bit>
#include <cstdint>

namespace vitscale {

// Rounds to nearest, ties to even, as the AVX512_BF16 instructions do for normal numbers; overflow gives infinity
// and a NaN stays a (quiet) NaN with its sign.
inline uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Exact.
inline float FromBf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

}  // namespace vitscale

#endif  // KERNELS_BASE_BF16_H_
