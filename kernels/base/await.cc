#include "kernels/base/await.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

namespace vitscale {
namespace {

using Clock = std::chrono::steady_clock;

// One wait. `expired` is guarded by `mutex`, the rest by the registry.
struct Alarm {
  absl::Mutex* mutex;
  const absl::Condition* condition;
  bool expired = false;

  bool Over() const { return expired || condition->Eval(); }
};

// Marks waits as expired, on a thread of its own that never blocks on a waiter's mutex. Whoever
// unlocks an absl::Mutex evaluates the conditions of its waiters, so marking is all it takes.
class Alarms {
 public:
  using Entry = std::multimap<Clock::time_point, Alarm*>::iterator;

  // Never destroyed: threads may wait until the process ends. A forked child has none of its
  // parent's threads and gets alarms of its own.
  static Alarms& Get() {
    static std::mutex mutex;
    static std::map<pid_t, Alarms*> by_process;
    std::lock_guard lock(mutex);
    Alarms*& alarms = by_process[getpid()];
    if (alarms == nullptr) alarms = new Alarms;
    return *alarms;
  }

  void Add(Clock::time_point deadline, Alarm* alarm) {
    std::lock_guard lock(mutex_);
    const Entry entry = by_time_.emplace(deadline, alarm);
    if (entry == by_time_.begin()) earlier_.notify_one();
  }

  void Remove(Alarm* alarm) {
    std::lock_guard lock(mutex_);
    std::erase_if(by_time_, [&](const auto& entry) { return entry.second == alarm; });
  }

 private:
  static constexpr auto kRetry = std::chrono::milliseconds(1);

  Alarms() { std::thread(&Alarms::Run, this).detach(); }

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      if (by_time_.empty()) {
        earlier_.wait(lock);
      } else if (const auto first = by_time_.begin(); first->first > Clock::now()) {
        const Clock::time_point deadline = first->first;
        earlier_.wait_until(lock, deadline);
      } else {
        Fire(first);
      }
    }
  }

  // Only tries: the holder may be in Add or Remove, or may itself wait for an alarm.
  void Fire(Entry entry) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Alarm* alarm = entry->second;
    by_time_.erase(entry);
    if (!alarm->mutex->TryLock()) {
      by_time_.emplace(Clock::now() + kRetry, alarm);
      return;
    }
    alarm->expired = true;
    alarm->mutex->Unlock();
  }

  std::mutex mutex_;
  std::condition_variable earlier_;
  std::multimap<Clock::time_point, Alarm*> by_time_;
};

}  // namespace

bool AwaitFor(absl::Mutex& mutex, const absl::Condition& condition, absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) {
    mutex.Await(condition);
    return true;
  }
  if (timeout <= absl::ZeroDuration() || condition.Eval()) return condition.Eval();
  Alarm alarm{&mutex, &condition};
  const auto wait = absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24 * 365)));
  Alarms::Get().Add(Clock::now() + wait, &alarm);
  mutex.Await(absl::Condition(&alarm, &Alarm::Over));
  Alarms::Get().Remove(&alarm);
  return condition.Eval();
}

}  // namespace vitscale
