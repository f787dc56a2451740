// The most this machine can multiply: a loop that keeps every operand in registers.

#ifndef WORKER_BENCH_CEILING_H_
#define WORKER_BENCH_CEILING_H_

#include <cstdint>
#include <string>

#include "worker/model/model_config.h"

namespace vitscale {

struct Ceiling {
  double flops_per_second = 0;  // of all threads together
  std::string instruction;      // "vdpbf16ps zmm", "fma zmm", "fma ymm"
};

// bf16 where the machine multiplies it, else (and for f32) f32 FMA: then a bf16 program can do no
// better either. `threads` of 0: every core. The median of five runs of `seconds` each.
Ceiling MeasureCeiling(Precision precision, int threads, double seconds = 0.1);

// Bytes a second between memory and all threads together by a[i] = b[i] + s * c[i] with stores that
// pass the caches: two reads and a write, nothing else. `bytes` of all three arrays together must
// be several times the last-level cache. The median of five rounds.
double MeasureTriadBytesPerSecond(int threads, int64_t bytes = int64_t{384} << 20);

}  // namespace vitscale

#endif  // WORKER_BENCH_CEILING_H_
