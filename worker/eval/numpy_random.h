// Random permutations as numpy makes them: default_rng(seed).permutation(values), bit for bit.
//
// Few-shot accuracy is a mean over a few draws of images; drawing the very images that the public
// protocol draws makes numbers comparable. Everything else in vitscale that is random uses
// counter-based draws (kernels/base/philox.h).
//
// Source: numpy 2.4 (the stream has been the same since 1.17): SeedSequence (O'Neill,
// "Developing a seed_seq Alternative"), PCG64 (XSL-RR 128/64, O'Neill 2014, "PCG: A Family of
// Simple Fast Space-Efficient Statistically Good Algorithms", section 6.3), Generator.shuffle
// (Fisher-Yates from the end, masked rejection).

#ifndef WORKER_EVAL_NUMPY_RANDOM_H_
#define WORKER_EVAL_NUMPY_RANDOM_H_

#include <cstdint>
#include <vector>

namespace vitscale {

// numpy.random.default_rng(seed).
class NumpyRandom {
 public:
  explicit NumpyRandom(uint64_t seed);

  // Generator.permutation of a one-dimensional array.
  std::vector<int64_t> Permutation(std::vector<int64_t> values);

  uint64_t Bits64();
  // Half of a Bits64, low half first; the other half is kept for the next call.
  uint32_t Bits32();

 private:
  __extension__ typedef unsigned __int128 Uint128;

  void Step();
  uint64_t UpTo(uint64_t most);  // uniform in [0, most]

  Uint128 state_ = 0, increment_ = 0;
  bool half_kept_ = false;
  uint32_t half_ = 0;
};

}  // namespace vitscale

#endif  // WORKER_EVAL_NUMPY_RANDOM_H_
