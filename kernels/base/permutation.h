// A shuffle without a buffer: a keyed bijection of [0, n), any entry computed alone.
//
// A Feistel network over the next power of two, entries outside [0, n) walked on until they fall inside
// (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Less than two rounds of walking
// on average. Not for security.

#ifndef KERNELS_BASE_PERMUTATION_H_
#define KERNELS_BASE_PERMUTATION_H_

#include <array>
#include <cstdint>

namespace vitscale {

class KeyedPermutation {
 public:
  // n in [1, 2^62]. Different (seed, epoch) give unrelated permutations.
  KeyedPermutation(uint64_t seed, uint64_t epoch, uint64_t n);

  uint64_t size() const { return n_; }
  // The entry at place i in [0, n) (checked).
  uint64_t At(uint64_t i) const;

 private:
  static constexpr int kRounds = 8;  // even: the halves may differ by a bit and swap every round
  uint64_t Encrypt(uint64_t value) const;

  uint64_t n_;
  int left_bits_, right_bits_;
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace vitscale

#endif  // KERNELS_BASE_PERMUTATION_H_
