// Memory of this process as the kernel counts it. 0 where /proc cannot be read.

#ifndef KERNELS_BASE_PROCESS_STATS_H_
#define KERNELS_BASE_PROCESS_STATS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace vitscale {

int64_t ResidentBytes();
int64_t PeakResidentBytes();
// User and system time of all threads so far.
absl::Duration ProcessCpuTime();
// Cores this process may run on (its affinity mask), at least 1.
int UsableCores();

}  // namespace vitscale

#endif  // KERNELS_BASE_PROCESS_STATS_H_
