#include "worker/eval/numpy_random.h"

#include <array>
#include <bit>
#include <cstddef>
#include <utility>

namespace vitscale {
namespace {

constexpr int kPoolWords = 4;

// numpy.random.SeedSequence(seed).generate_state(8): 128 bits of entropy, stirred, then spread.
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t seed) {
    const uint32_t words[kPoolWords] = {static_cast<uint32_t>(seed),
                                        static_cast<uint32_t>(seed >> 32)};
    for (int i = 0; i < kPoolWords; ++i) pool_[i] = Stir(words[i]);
    for (int from = 0; from < kPoolWords; ++from) {
      for (int to = 0; to < kPoolWords; ++to) {
        if (from != to) pool_[to] = Mix(pool_[to], Stir(pool_[from]));
      }
    }
  }

  std::array<uint32_t, 2 * kPoolWords> State() const {
    std::array<uint32_t, 2 * kPoolWords> state;
    uint32_t constant = 0x8b51f9dd;
    for (std::size_t i = 0; i < state.size(); ++i) {
      uint32_t word = pool_[i % kPoolWords] ^ constant;
      constant *= 0x58f38ded;
      word *= constant;
      state[i] = word ^ word >> 16;
    }
    return state;
  }

 private:
  uint32_t Stir(uint32_t word) {
    word ^= constant_;
    constant_ *= 0x931e8875;
    word *= constant_;
    return word ^ word >> 16;
  }
  static uint32_t Mix(uint32_t x, uint32_t y) {
    const uint32_t word = 0xca01f9ddu * x - 0x4973f715u * y;
    return word ^ word >> 16;
  }

  uint32_t constant_ = 0x43b0d7e5;
  std::array<uint32_t, kPoolWords> pool_;
};

}  // namespace

NumpyRandom::NumpyRandom(uint64_t seed) {
  const auto words = SeedSequence(seed).State();
  const auto pair = [&](int i) { return uint64_t{words[i]} | uint64_t{words[i + 1]} << 32; };
  const Uint128 initial = Uint128{pair(0)} << 64 | pair(2);
  const Uint128 sequence = Uint128{pair(4)} << 64 | pair(6);
  increment_ = sequence << 1 | 1;
  Step();
  state_ += initial;
  Step();
}

void NumpyRandom::Step() {
  constexpr Uint128 kMultiplier = Uint128{0x2360ed051fc65da4} << 64 | 0x4385df649fccf645;
  state_ = state_ * kMultiplier + increment_;
}

uint64_t NumpyRandom::Bits64() {
  Step();
  const uint64_t folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  return std::rotr(folded, static_cast<int>(state_ >> 122));
}

uint32_t NumpyRandom::Bits32() {
  half_kept_ = !half_kept_;
  if (!half_kept_) return half_;
  const uint64_t bits = Bits64();
  half_ = static_cast<uint32_t>(bits >> 32);
  return static_cast<uint32_t>(bits);
}

uint64_t NumpyRandom::UpTo(uint64_t most) {
  if (most == 0) return 0;
  const uint64_t mask = ~uint64_t{0} >> std::countl_zero(most);
  while (true) {
    const uint64_t value = (most <= 0xffffffff ? Bits32() : Bits64()) & mask;
    if (value <= most) return value;
  }
}

std::vector<int64_t> NumpyRandom::Permutation(std::vector<int64_t> values) {
  for (std::size_t i = values.size(); i-- > 1;) std::swap(values[i], values[UpTo(i)]);
  return values;
}

}  // namespace vitscale
