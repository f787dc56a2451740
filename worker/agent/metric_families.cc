#include "worker/agent/metric_families.h"

#include <dirent.h>
#include <sys/resource.h>

#include "absl/time/time.h"
#include "kernels/base/clock.h"
#include "kernels/base/process_stats.h"

namespace vitscale::agent {
namespace {

double OpenFiles() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries - 3;  // ".", ".." and the directory itself
}

double MaxFiles() {
  rlimit limit{};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? static_cast<double>(limit.rlim_cur) : 0;
}

const double kStartSeconds = absl::ToDoubleSeconds(RealClock().Now() - absl::UnixEpoch());

}  // namespace

void CollectProcess(std::vector<prometheus::MetricFamily>& families) {
  Counter("process_cpu_seconds_total", "User and system time of this process, seconds")
      .Add(absl::ToDoubleSeconds(ProcessCpuTime()))
      .To(families);
  Gauge("process_resident_memory_bytes", "Resident memory of this process, bytes")
      .Add(static_cast<double>(ResidentBytes()))
      .To(families);
  Gauge("process_open_fds", "Open file descriptors of this process").Add(OpenFiles()).To(families);
  Gauge("process_max_fds", "Limit of open file descriptors").Add(MaxFiles()).To(families);
  Gauge("process_start_time_seconds", "Start of this process, seconds since the epoch")
      .Add(kStartSeconds)
      .To(families);
}

}  // namespace vitscale::agent
