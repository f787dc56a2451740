#include "server/api/watch_hub.h"

#include <algorithm>
#include <utility>

#include "kernels/base/await.h"
#include "kernels/base/clock.h"

namespace vitscale {

WatchHub::WatchHub() : thread_([this] { Loop(); }) {}

WatchHub::~WatchHub() { Stop(); }

void WatchHub::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void WatchHub::Add(std::shared_ptr<Watcher> watcher) {
  absl::MutexLock lock(&mutex_);
  watchers_.push_back(watcher);
  soon_.push_back(std::move(watcher));
}

void WatchHub::Notify(const std::string& job_id) {
  absl::MutexLock lock(&mutex_);
  if (!watchers_.empty()) news_.insert(job_id);
}

void WatchHub::WakeSoon(std::weak_ptr<Watcher> watcher) {
  absl::MutexLock lock(&mutex_);
  soon_.push_back(std::move(watcher));
}

void WatchHub::Loop() {
  absl::Time next_tick = RealClock().Monotonic() + absl::Seconds(1);
  while (true) {
    std::vector<std::shared_ptr<Watcher>> awake;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !news_.empty() || !soon_.empty();
      };
      AwaitFor(mutex_, absl::Condition(&ready), next_tick - RealClock().Monotonic());
      if (stopping_) return;
      const bool tick = RealClock().Monotonic() >= next_tick;
      if (tick) next_tick = RealClock().Monotonic() + absl::Seconds(1);
      std::vector<std::weak_ptr<Watcher>> kept;
      for (std::weak_ptr<Watcher>& weak : watchers_) {
        std::shared_ptr<Watcher> watcher = weak.lock();
        if (watcher == nullptr) continue;
        const bool concerned = watcher->job_id().empty() || news_.count(watcher->job_id()) != 0;
        if (tick || (concerned && !news_.empty())) awake.push_back(watcher);
        kept.push_back(std::move(weak));
      }
      watchers_ = std::move(kept);
      count_ = static_cast<int64_t>(watchers_.size());
      news_.clear();
      for (const std::weak_ptr<Watcher>& weak : std::exchange(soon_, {})) {
        if (auto watcher = weak.lock()) awake.push_back(std::move(watcher));
      }
    }
    for (const std::shared_ptr<Watcher>& watcher : awake) watcher->Wake();
  }
}

}  // namespace vitscale
