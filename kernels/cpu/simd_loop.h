// Walking a row of any length in vectors, for *_simd.cc files: full vectors first, four to a turn,
// then one masked tail. A body is written once and compiled for both: body(column, lanes, slot),
// where `lanes` is Full or Tail and `slot` (0 to 3, a constant after inlining) chooses one of four
// independent partial sums.

#ifndef KERNELS_CPU_SIMD_LOOP_H_
#define KERNELS_CPU_SIMD_LOOP_H_

#include "kernels/cpu/simd.h"

#define VITSCALE_BODY __attribute__((always_inline))

namespace vitscale::cpu::VITSCALE_SIMD {

struct Full {};
struct Tail {
  int64_t count;  // 1 to kLanes - 1
};

// An operand that is absent: loads are 0, stores do nothing.
struct None {};
VITSCALE_INLINE F32 Load(const None*, Full) { return Zero(); }
VITSCALE_INLINE F32 Load(const None*, Tail) { return Zero(); }
VITSCALE_INLINE void Store(None*, F32, Full) {}
VITSCALE_INLINE void Store(None*, F32, Tail) {}
template <typename T>
inline constexpr bool kPresent = true;
template <>
inline constexpr bool kPresent<None> = false;
template <typename T>
VITSCALE_INLINE T* Advance(T* p, int64_t n) {
  return p + n;
}
template <>
inline __attribute__((always_inline)) const None* Advance(const None* p, int64_t) {
  return p;
}
template <>
inline __attribute__((always_inline)) None* Advance(None* p, int64_t) {
  return p;
}

template <typename T>
VITSCALE_INLINE F32 Load(const T* p, Full) {
  return Load(p);
}
template <typename T>
VITSCALE_INLINE F32 Load(const T* p, Tail tail) {
  return LoadPartial(p, tail.count);
}
template <typename T>
VITSCALE_INLINE void Store(T* p, F32 x, Full) {
  Store(p, x);
}
template <typename T>
VITSCALE_INLINE void Store(T* p, F32 x, Tail tail) {
  StorePartial(p, x, tail.count);
}
// x in the lanes that exist, `other` elsewhere.
VITSCALE_INLINE F32 Keep(F32 x, Full, F32) { return x; }
VITSCALE_INLINE F32 Keep(F32 x, Tail tail, F32 other) {
  return Select(FirstLanes(tail.count), x, other);
}

template <typename Body>
VITSCALE_INLINE void ForVectors(int64_t count, const Body& body) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= count; c += 4 * kLanes) {
    body(c, Full{}, 0);
    body(c + kLanes, Full{}, 1);
    body(c + 2 * kLanes, Full{}, 2);
    body(c + 3 * kLanes, Full{}, 3);
  }
  for (; c + kLanes <= count; c += kLanes) body(c, Full{}, 0);
  if (c < count) body(c, Tail{count - c}, 1);
}

// Four partial sums of a row.
struct RowSums {
  F32 part[4] = {Zero(), Zero(), Zero(), Zero()};
};
VITSCALE_INLINE F32 Fold(const RowSums& s) {
  return (s.part[0] + s.part[1]) + (s.part[2] + s.part[3]);
}
VITSCALE_INLINE float ReduceAdd(const RowSums& s) { return ReduceAdd(Fold(s)); }

}  // namespace vitscale::cpu::VITSCALE_SIMD

#endif  // KERNELS_CPU_SIMD_LOOP_H_
