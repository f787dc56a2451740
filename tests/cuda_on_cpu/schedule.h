// The order in which the layer of this folder runs blocks, warps and lanes. Where kernels run on a
// device nothing is chosen.

#ifndef TESTS_CUDA_ON_CPU_SCHEDULE_H_
#define TESTS_CUDA_ON_CPU_SCHEDULE_H_

#include <cstdint>

namespace vitscale::cuda_on_cpu {

#ifdef VITSCALE_CUDA_ON_CPU
// Seed 0: in order. The environment's VITSCALE_SCHEDULE_SEED holds until this is called.
void SetScheduleSeed(uint64_t seed);
uint64_t ScheduleSeed();
#else
inline void SetScheduleSeed(uint64_t) {}
inline uint64_t ScheduleSeed() { return 0; }
#endif

class ScopedSchedule {
 public:
  explicit ScopedSchedule(uint64_t seed) : before_(ScheduleSeed()) { SetScheduleSeed(seed); }
  ~ScopedSchedule() { SetScheduleSeed(before_); }
  ScopedSchedule(const ScopedSchedule&) = delete;
  ScopedSchedule& operator=(const ScopedSchedule&) = delete;

 private:
  const uint64_t before_;
};

}  // namespace vitscale::cuda_on_cpu

#endif  // TESTS_CUDA_ON_CPU_SCHEDULE_H_
