#include "kernels/base/permutation.h"

#include <algorithm>
#include <bit>

#include "kernels/base/hash.h"
#include "kernels/base/philox.h"
#include "kernels/base/status.h"

namespace vitscale {

KeyedPermutation::KeyedPermutation(uint64_t seed, uint64_t epoch, uint64_t n) : n_(n) {
  VITSCALE_CHECK(n >= 1 && n <= (uint64_t{1} << 62)) << "a permutation of " << n << " entries";
  const int bits = std::max(2, static_cast<int>(std::bit_width(n - 1)));
  left_bits_ = bits / 2;
  right_bits_ = bits - left_bits_;
  Draws draws(seed, DrawPurpose::kShuffle, epoch, n);
  for (uint64_t& key : keys_) key = draws.Bits64();
}

uint64_t KeyedPermutation::Encrypt(uint64_t value) const {
  int left_bits = left_bits_, right_bits = right_bits_;
  uint64_t left = value >> right_bits, right = value & ((uint64_t{1} << right_bits) - 1);
  for (uint64_t key : keys_) {
    const uint64_t mask = (uint64_t{1} << left_bits) - 1;
    const uint64_t mixed = left ^ (CombineHash(key, right) & mask);
    left = right;
    right = mixed;
    std::swap(left_bits, right_bits);
  }
  return left << right_bits | right;
}

uint64_t KeyedPermutation::At(uint64_t i) const {
  VITSCALE_CHECK(i < n_) << "entry " << i << " of a permutation of " << n_;
  uint64_t value = Encrypt(i);
  while (value >= n_) value = Encrypt(value);
  return value;
}

}  // namespace vitscale
