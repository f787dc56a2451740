#include "worker/collective/sum_in_order.h"

#include "worker/collective/streamed.h"

namespace vitscale {
namespace {

// Of the compiler, at any address: where registers are narrower it takes several, and the additions
// stay the same.
using Vector = float __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t kLanes = sizeof(Vector) / sizeof(float);
constexpr int kVectors = 4;  // sums under way in registers

inline __attribute__((always_inline)) const Vector* VectorsAt(const float* floats) {
  return reinterpret_cast<const Vector*>(floats);
}
inline __attribute__((always_inline)) Vector* VectorsAt(float* floats) {
  return reinterpret_cast<Vector*>(floats);
}

// Whole groups of vectors; returns how many floats that were. `second` can be streamed to.
__attribute__((target_clones("avx512f", "avx2", "default"))) int64_t SumVectors(
    const float* const* inputs, int64_t inputs_count, int64_t count, float* first, float* second) {
  int64_t at = 0;
  for (; at + kVectors * kLanes <= count; at += kVectors * kLanes) {
    Vector sums[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[v] = VectorsAt(inputs[0] + at)[v];
    for (int64_t i = 1; i < inputs_count; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[v] += VectorsAt(inputs[i] + at)[v];
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      VectorsAt(first + at)[v] = sums[v];
      const float* const sum = reinterpret_cast<const float*>(&sums[v]);
      for (int64_t part = 0; part < kLanes; part += kStreamFloats)
        Stream(sum + part, second + at + v * kLanes + part);
    }
  }
  return at;
}

}  // namespace

void SumInOrder(absl::Span<const float* const> inputs, int64_t count, float* first, float* second) {
  int64_t at = 0;
  if (CanStream(second)) at = SumVectors(inputs.data(), inputs.size(), count, first, second);
  for (; at < count; ++at) {
    float sum = inputs[0][at];
    for (size_t i = 1; i < inputs.size(); ++i) sum += inputs[i][at];
    first[at] = second[at] = sum;
  }
  StreamFence();
}

}  // namespace vitscale
