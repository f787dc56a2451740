// Random bits as a seam: ids, secrets and back-off jitter. Everything that a result depends on is drawn by
// counters instead (philox.h).

#ifndef KERNELS_BASE_RANDOM_H_
#define KERNELS_BASE_RANDOM_H_

#include <cstdint>
#include <memory>
#include <string>

namespace vitscale {

class Random {
 public:
  virtual ~Random() = default;
  virtual uint64_t Next() = 0;  // 64 independent bits; thread-safe
};

// The kernel's generator (getrandom): fit for secrets.
Random& SystemRandom();

// A fixed sequence for tests and simulations; not fit for secrets.
std::unique_ptr<Random> SeededRandom(uint64_t seed);

// `characters` of [a-z0-9], each equally likely. 12 of them (job ids) hold 62 bits.
std::string RandomId(Random& random, int characters);

// Uniform in [0, 1).
double RandomUniform(Random& random);

}  // namespace vitscale

#endif  // KERNELS_BASE_RANDOM_H_
