#include "kernels/base/philox.h"

#include <cmath>

#include "kernels/base/hash.h"
#include "kernels/base/status.h"

namespace vitscale {

std::array<uint32_t, 4> Philox(uint64_t key, std::array<uint32_t, 4> counter) {
  constexpr uint64_t kMultiplier0 = 0xd2511f53, kMultiplier1 = 0xcd9e8d57;
  constexpr uint32_t kWeyl0 = 0x9e3779b9, kWeyl1 = 0xbb67ae85;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

Draws::Draws(uint64_t seed, DrawPurpose purpose, uint64_t step, uint64_t index)
    : key_(CombineHash(MixBits(seed), static_cast<uint64_t>(purpose))),
      counter_{0, static_cast<uint32_t>(step), static_cast<uint32_t>(index),
               static_cast<uint32_t>(index >> 32)} {
  VITSCALE_CHECK(step <= 0xffffffffull)
      << "draws are keyed by 32 bits of step or epoch, got " << step;
}

uint32_t Draws::Bits() {
  if (used_ == 4) {
    words_ = Philox(key_, counter_);
    ++counter_[0];
    VITSCALE_CHECK(counter_[0] != 0) << "more than 2^34 words drawn under one key";
    used_ = 0;
  }
  return words_[used_++];
}

uint64_t Draws::Bits64() {
  const uint64_t high = Bits();
  return high << 32 | Bits();
}

double Draws::Uniform() { return static_cast<double>(Bits64() >> 11) * 0x1p-53; }

float Draws::UniformFloat() { return static_cast<float>(Bits() >> 8) * 0x1p-24f; }

double Draws::Normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));  // 1 - u is in (0, 1]
  const double angle = 2.0 * M_PI * Uniform();
  spare_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

uint32_t Draws::Below(uint32_t bound) {
  VITSCALE_CHECK(bound > 0);
  uint64_t product = static_cast<uint64_t>(Bits()) * bound;
  if (static_cast<uint32_t>(product) < bound) {
    const uint32_t threshold = -bound % bound;
    while (static_cast<uint32_t>(product) < threshold) {
      product = static_cast<uint64_t>(Bits()) * bound;
    }
  }
  return static_cast<uint32_t>(product >> 32);
}

}  // namespace vitscale
