// Inputs of golden tests that are too large to store: both sides compute them. The same bits as
// counter_draws.py.

#ifndef TESTS_GOLDEN_COUNTER_DRAWS_H_
#define TESTS_GOLDEN_COUNTER_DRAWS_H_

#include <bit>
#include <cstdint>
#include <vector>

#include "kernels/base/philox.h"

namespace vitscale::golden {

// `count` multiples of 2^-23 in [-1, 1): element i is word i % 4 of the Philox block (i / 4, step,
// stream, 0) under the key `seed`.
inline std::vector<float> UniformDraws(int64_t count, uint64_t seed, uint32_t stream,
                                       uint32_t step = 0) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; i += 4) {
    const auto words = Philox(seed, {static_cast<uint32_t>(i / 4), step, stream, 0});
    for (int64_t k = 0; k < 4 && i + k < count; ++k) {
      values[i + k] = static_cast<float>(std::bit_cast<int32_t>(words[k]) >> 8) * 0x1p-23f;
    }
  }
  return values;
}

}  // namespace vitscale::golden

#endif  // TESTS_GOLDEN_COUNTER_DRAWS_H_
