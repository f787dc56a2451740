#include "kernels/base/random.h"

#include <sys/random.h>

#include <cerrno>
#include <mutex>

#include "kernels/base/hash.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

class KernelRandom : public Random {
 public:
  uint64_t Next() override {
    uint64_t value = 0;
    ssize_t got;
    do {
      got = getrandom(&value, sizeof(value), 0);
    } while (got < 0 && errno == EINTR);
    VITSCALE_CHECK(got == sizeof(value)) << "getrandom failed";  // up to 256 bytes come whole
    return value;
  }
};

// SplitMix64 (Steele et al., OOPSLA 2014).
class SplitMixRandom : public Random {
 public:
  explicit SplitMixRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next() override {
    std::lock_guard<std::mutex> lock(mutex_);
    state_ += 0x9e3779b97f4a7c15ull;
    return MixBits(state_);
  }

 private:
  std::mutex mutex_;
  uint64_t state_;
};

}  // namespace

Random& SystemRandom() {
  static KernelRandom* random = new KernelRandom;
  return *random;
}

std::unique_ptr<Random> SeededRandom(uint64_t seed) {
  return std::make_unique<SplitMixRandom>(seed);
}

std::string RandomId(Random& random, int characters) {
  static constexpr char kAlphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  constexpr uint32_t kLetters = sizeof(kAlphabet) - 1;
  constexpr uint32_t kFair =
      (1u << 16) / kLetters * kLetters;  // 16-bit values above it would favour some letters
  std::string id;
  while (static_cast<int>(id.size()) < characters) {
    uint64_t bits = random.Next();
    for (int piece = 0; piece < 4 && static_cast<int>(id.size()) < characters; ++piece) {
      const uint32_t value = bits & 0xffff;
      bits >>= 16;
      if (value < kFair) id.push_back(kAlphabet[value % kLetters]);
    }
  }
  return id;
}

double RandomUniform(Random& random) { return static_cast<double>(random.Next() >> 11) * 0x1p-53; }

}  // namespace vitscale
