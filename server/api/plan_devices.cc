#include "server/api/plan_devices.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <string>

#include "server/core/scheduler.h"

namespace vitscale {
namespace {

using Workers = std::vector<const v1::Worker*>;

// What `keep` holds for; all, if it holds for none.
Workers Preferred(Workers workers, const std::function<bool(const v1::Worker&)>& keep) {
  Workers kept;
  std::copy_if(workers.begin(), workers.end(), std::back_inserter(kept),
               [&](const v1::Worker* worker) { return keep(*worker); });
  return kept.empty() ? workers : kept;
}

Workers OfWantedKind(v1::Device wanted, absl::Span<const v1::Worker> workers) {
  Workers found;
  for (const v1::Worker& worker : workers) {
    const v1::Device kind = worker.device().kind();
    const bool known = kind == v1::DEVICE_CPU || kind == v1::DEVICE_CUDA;
    if (known && Admits(wanted, kind)) found.push_back(&worker);
  }
  return found;
}

DeviceLimits LimitsOf(const v1::Worker& worker) {
  const v1::DeviceInfo& device = worker.device();
  return {device.kind() == v1::DEVICE_CUDA ? DeviceKind::kCuda : DeviceKind::kCpu, device.model(),
          device.memory_bytes(), device.threads(), device.bf16()};
}

}  // namespace

std::vector<DeviceLimits> DevicesFor(const v1::JobSpec& canonical,
                                     absl::Span<const v1::Worker> workers) {
  Workers allowed =
      Preferred(OfWantedKind(canonical.resources().device(), workers),
                [](const v1::Worker& worker) { return worker.state() != v1::WORKER_STATE_LOST; });
  std::map<std::string, int> class_size;
  for (const v1::Worker* worker : allowed) ++class_size[NumericClassOf(*worker)];
  const int need = std::max(1, canonical.resources().workers().min());
  allowed = Preferred(std::move(allowed), [&](const v1::Worker& worker) {
    return class_size.at(NumericClassOf(worker)) >= need;
  });
  std::vector<DeviceLimits> limits;
  for (const v1::Worker* worker : allowed) limits.push_back(LimitsOf(*worker));
  return limits;
}

}  // namespace vitscale
