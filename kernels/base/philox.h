// Counter-based random draws: every value is a pure function of (seed, purpose, step or epoch, index, number of
// the draw), so no generator state is saved, and no draw depends on rank, thread or order.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011: Philox4x32 with 10 rounds.

#ifndef KERNELS_BASE_PHILOX_H_
#define KERNELS_BASE_PHILOX_H_

#include <array>
#include <cstdint>

namespace vitscale {

// One block of Philox4x32-10. The low word of `key` is the first key word.
std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter);

// What a draw is for. Numbers are never reused: they are part of what makes a resumed run equal.
enum class DrawPurpose : uint32_t {
  kInitialise = 1,      // step: number of the tensor in the param table, index: element or block of elements
  kShuffle = 2,         // step: epoch
  kCrop = 3,            // step: epoch, index: sample
  kFlip = 4,            // step: epoch, index: sample
  kSyntheticImage = 5,  // index: sample
  kSyntheticLabel = 6,  // index: sample
  kSyntheticClass = 7,  // index: class
  kFewShot = 8,
  kBenchmark = 9,
  kTest = 10,
};

// A stream of draws under one key. Cheap to make (no allocation): one per sample, tensor or row.
//
// The key is the seed mixed with the purpose; the counter is (block, step, index): 2^32 blocks of four 32-bit
// words each. `step` must be below 2^32 (checked).
class Draws {
 public:
  Draws(uint64_t seed, DrawPurpose purpose, uint64_t step, uint64_t index);

  uint32_t Bits();    // 32 bits
  uint64_t Bits64();  // first draw in the high half
  double Uniform();   // [0, 1), a multiple of 2^-53; takes two words
  float UniformFloat();  // [0, 1), a multiple of 2^-24; takes one word
  double Normal();    // mean 0, variance 1, by Box and Muller; takes four words for every two values
  // Uniform in [0, bound) without bias (Lemire 2019, arXiv:1805.10941). bound must be positive.
  uint32_t Below(uint32_t bound);

 private:
  uint64_t key_;
  std::array<uint32_t, 4> counter_;  // [0] is the block
  std::array<uint32_t, 4> words_{};
  int used_ = 4;
  bool has_spare_ = false;
  double spare_ = 0;
};

}  // namespace vitscale

#endif  // KERNELS_BASE_PHILOX_H_
