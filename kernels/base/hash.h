// A 64-bit hash of bytes that is the same on every machine and in every release: plan hashes, request hashes,
// numeric class. Not for security: anybody can make two inputs collide.

#ifndef KERNELS_BASE_HASH_H_
#define KERNELS_BASE_HASH_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace vitscale {

uint64_t Hash64(absl::string_view bytes, uint64_t seed = 0);

// A bijection of 64-bit words in which every input bit reaches every output bit (the finalizer of SplitMix64:
// Steele et al., OOPSLA 2014).
uint64_t MixBits(uint64_t value);

// Order matters. For hashing a struct field by field.
inline uint64_t CombineHash(uint64_t hash, uint64_t value) {
  return MixBits(hash * 0x9e3779b97f4a7c15ull + value + 1);
}

}  // namespace vitscale

#endif  // KERNELS_BASE_HASH_H_
