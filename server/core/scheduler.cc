#include "server/core/scheduler.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace vitscale {
namespace {

// Devices of one numeric class.
struct Group {
  v1::Device kind = v1::DEVICE_CPU;
  std::vector<const SchedulerDevice*> free;
  std::vector<const SchedulerDevice*> coming;
  int held = 0;
  int usable() const { return static_cast<int>(free.size() + coming.size()) + held; }
};

bool Fits(const QueuedJob& job, const Group& group) { return Admits(job.device, group.kind); }

std::string DeviceWord(v1::Device device) {
  return device == v1::DEVICE_CPU ? "cpu " : device == v1::DEVICE_CUDA ? "cuda " : "";
}

class Pass {
 public:
  explicit Pass(const SchedulerInput& input) : input_(input) {
    for (const SchedulerDevice& device : input.devices) AddDevice(device);
  }

  SchedulerOutput Run() {
    for (const QueuedJob* job : Order()) {
      if (job->backoff_left > absl::ZeroDuration()) {
        Wait(*job, "backing_off", [] { return std::string("waits before its next attempt"); });
      } else if (!Place(*job)) {
        Block(*job);
      }
    }
    return std::move(output_);
  }

 private:
  void AddDevice(const SchedulerDevice& device) {
    Group& group = groups_[device.numeric_class];
    group.kind = device.kind;
    if (device.status == DeviceStatus::kFree) {
      group.free.push_back(&device);
      ++free_;
    }
    if (device.status == DeviceStatus::kComing) group.coming.push_back(&device);
    if (device.status == DeviceStatus::kHeld) ++group.held;
  }

  std::vector<const QueuedJob*> Order() const {
    std::vector<const QueuedJob*> order;
    order.reserve(input_.queue.size());
    for (const QueuedJob& job : input_.queue) order.push_back(&job);
    std::sort(order.begin(), order.end(), [](const QueuedJob* a, const QueuedJob* b) {
      return std::make_tuple(-a->priority, a->share, a->number) <
             std::make_tuple(-b->priority, b->share, b->number);
    });
    return order;
  }

  std::vector<const SchedulerDevice*> Available(const Group& group) const {
    std::vector<const SchedulerDevice*> available;
    for (const SchedulerDevice* device : group.free) {
      if (!reserved_.contains(device->worker_id)) available.push_back(device);
    }
    return available;
  }

  bool Place(const QueuedJob& job) {
    if (job.need > free_) return false;
    Group* best = nullptr;
    std::vector<const SchedulerDevice*> chosen;
    for (auto& [name, group] : groups_) {
      if (!Fits(job, group)) continue;
      std::vector<const SchedulerDevice*> available = Available(group);
      if (static_cast<int>(available.size()) < job.need || available.size() <= chosen.size())
        continue;
      best = &group;
      chosen = std::move(available);
    }
    if (best == nullptr) return false;
    Take(job, *best, std::move(chosen));
    return true;
  }

  void Take(const QueuedJob& job, Group& group, std::vector<const SchedulerDevice*> chosen) {
    std::stable_partition(chosen.begin(), chosen.end(), [&](const SchedulerDevice* device) {
      return device->worker_id != job.avoid_worker;
    });
    chosen.resize(job.need);
    PlacementDecision placement{std::string(job.id), {}};
    for (const SchedulerDevice* device : chosen) {
      placement.workers.emplace_back(device->worker_id);
      group.free.erase(std::find(group.free.begin(), group.free.end(), device));
      ++group.held;
      --free_;
    }
    output_.placements.push_back(std::move(placement));
  }

  // A job that cannot be placed now.
  void Block(const QueuedJob& job) {
    int most = 0;
    for (const auto& [name, group] : groups_) {
      if (Fits(job, group)) most = std::max(most, group.usable());
    }
    if (most < job.need) {
      Wait(job, "not_enough_workers", [&] {
        return absl::StrCat("needs ", job.need, " ", DeviceWord(job.device),
                            job.need == 1 ? "worker; " : "workers of one class; ", most,
                            " can be used");
      });
      return;
    }
    if (!head_seen_) Head(job);
    if (output_.reserved_for != job.id) {
      Wait(job, "waiting_for_workers", [&] {
        return absl::StrCat(
            "needs ", job.need, " ", DeviceWord(job.device),
            job.need == 1 ? "worker; none is free" : "workers; not enough are free");
      });
    }
  }

  // The first in line that could run here: it may preempt, and gets the reservation.
  void Head(const QueuedJob& job) {
    head_seen_ = true;
    for (auto& [name, group] : groups_) {
      if (!Fits(job, group) || group.usable() < job.need) continue;
      const std::optional<std::vector<const RunningJob*>> victims = Victims(job, group);
      if (victims.has_value()) {
        for (const RunningJob* victim : *victims)
          output_.preemptions.push_back({std::string(victim->id), std::string(job.id)});
        if (!victims->empty() || ComingPreempted(group)) {
          Reserve(job, group, *victims);
          return;
        }
      }
    }
    if (job.waited < input_.reservation_after) return;
    for (auto& [name, group] : groups_) {
      if (Fits(job, group) && group.usable() >= job.need) return Reserve(job, group, {});
    }
  }

  static bool ComingPreempted(const Group& group) {
    return std::any_of(group.coming.begin(), group.coming.end(),
                       [](const SchedulerDevice* device) { return device->coming_preempted; });
  }

  int InGroup(const RunningJob& job, const Group& group) const {
    if (class_of_.empty()) {
      for (const SchedulerDevice& device : input_.devices) {
        class_of_[device.worker_id] = &groups_.at(device.numeric_class);
      }
    }
    return static_cast<int>(
        std::count_if(job.workers.begin(), job.workers.end(), [&](absl::string_view worker) {
          const auto it = class_of_.find(worker);
          return it != class_of_.end() && it->second == &group;
        }));
  }

  // Jobs to preempt so that `job` fits into `group`; empty: what is coming suffices; nullopt: no
  // way.
  std::optional<std::vector<const RunningJob*>> Victims(const QueuedJob& job,
                                                        const Group& group) const {
    int supply = static_cast<int>(group.free.size() + group.coming.size());
    std::vector<const RunningJob*> victims;
    for (const RunningJob* candidate : Candidates(job, group)) {
      if (supply >= job.need) break;
      supply += InGroup(*candidate, group);
      victims.push_back(candidate);
    }
    if (supply < job.need) return std::nullopt;
    std::vector<const RunningJob*> needed;
    for (const RunningJob* victim : victims) {
      const int devices = InGroup(*victim, group);
      if (supply - devices >= job.need) {
        supply -= devices;  // a later, larger victim made it superfluous
      } else {
        needed.push_back(victim);
      }
    }
    return needed;
  }

  // Strictly lower priority; twice preempted last, then lowest, then youngest.
  std::vector<const RunningJob*> Candidates(const QueuedJob& job, const Group& group) const {
    std::vector<const RunningJob*> candidates;
    for (const RunningJob& running : input_.running) {
      if (running.priority < job.priority && InGroup(running, group) > 0)
        candidates.push_back(&running);
    }
    std::sort(candidates.begin(), candidates.end(), [](const RunningJob* a, const RunningJob* b) {
      return std::make_tuple(a->recent_preemptions >= 2, a->priority,
                             -absl::ToUnixNanos(a->attempt_start),
                             a->id) < std::make_tuple(b->recent_preemptions >= 2, b->priority,
                                                      -absl::ToUnixNanos(b->attempt_start), b->id);
    });
    return candidates;
  }

  void Reserve(const QueuedJob& job, const Group& group,
               const std::vector<const RunningJob*>& victims) {
    output_.reserved_for = std::string(job.id);
    auto add = [&](absl::string_view worker) {
      if (static_cast<int>(reserved_.size()) < job.need && reserved_.insert(worker).second) {
        output_.reserved.emplace_back(worker);
      }
    };
    for (const RunningJob* victim : victims) {
      for (absl::string_view worker : victim->workers) add(worker);
    }
    for (const SchedulerDevice* device : group.coming) add(device->worker_id);
    for (const SchedulerDevice* device : group.free) add(device->worker_id);
    Wait(job, victims.empty() && !ComingPreempted(group) ? "reserved" : "waiting_for_preemption",
         [&] {
           return absl::StrCat(reserved_.size(), " of ", job.need,
                               job.need == 1 ? " worker is kept for it until it is free"
                                             : " workers are kept for it until they are free");
         });
  }

  template <typename Text>
  void Wait(const QueuedJob& job, absl::string_view code, Text text) {
    if (job.reason != code) {
      output_.waits.push_back({std::string(job.id), std::string(code), text()});
    }
  }

  const SchedulerInput& input_;
  std::map<absl::string_view, Group> groups_;
  mutable absl::flat_hash_map<absl::string_view, const Group*>
      class_of_;  // filled when first needed
  absl::flat_hash_set<absl::string_view> reserved_;
  int free_ = 0;
  bool head_seen_ = false;
  SchedulerOutput output_;
};

}  // namespace

bool Admits(v1::Device wanted, v1::Device kind) {
  return wanted == v1::DEVICE_ANY || wanted == v1::DEVICE_UNSPECIFIED || wanted == kind;
}

SchedulerOutput Schedule(const SchedulerInput& input) { return Pass(input).Run(); }

std::string NumericClassOf(const v1::Worker& worker) {
  const v1::DeviceInfo& device = worker.device();
  std::string name =
      absl::StrCat(static_cast<int>(device.kind()), "|", worker.version(), "|", device.libraries());
  if (device.kind() == v1::DEVICE_CUDA)
    absl::StrAppend(&name, "|", device.instruction_set(), "|", device.model());
  return name;
}

}  // namespace vitscale
