// Inputs of golden values that need no place in a file: drawn_values.py draws the same bits.

#ifndef TESTS_GOLDEN_DRAWN_VALUES_H_
#define TESTS_GOLDEN_DRAWN_VALUES_H_

#include <cstdint>
#include <vector>

namespace vitscale::golden {

// `count` values in [-1, 1), multiples of 2^-23; one sequence for each stream. The 64 bits are those
// of SplitMix64's output function (Steele, Lea, Flood 2014) of the counter stream * 2^32 + index.
inline std::vector<double> DrawUniform(uint64_t stream, int64_t count) {
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; ++i) {
    uint64_t z = ((stream << 32) + static_cast<uint64_t>(i)) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z = z ^ (z >> 31);
    values[i] = static_cast<double>(z >> 40) * 0x1p-23 - 1;
  }
  return values;
}

}  // namespace vitscale::golden

#endif  // TESTS_GOLDEN_DRAWN_VALUES_H_
