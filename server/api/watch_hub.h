// Wakes those who watch. A watcher holds a cursor, not a queue: when it is woken it reads what is
// new from the stores, so a slow client costs nothing and misses nothing.
//
// All watchers are woken by one thread, on news of their job and about once a second (for
// heartbeats).

#ifndef SERVER_API_WATCH_HUB_H_
#define SERVER_API_WATCH_HUB_H_

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace vitscale {

class Watcher {
 public:
  virtual ~Watcher() = default;
  // On the hub's thread. Must not block but for short reads.
  virtual void Wake() = 0;
  virtual const std::string& job_id() const = 0;  // empty: all jobs
};

class WatchHub {
 public:
  WatchHub();
  ~WatchHub();

  void Add(std::shared_ptr<Watcher> watcher);  // woken at once; forgotten when nobody else holds it
  void Notify(const std::string& job_id);
  void WakeSoon(std::weak_ptr<Watcher> watcher);  // its last message has left
  void Stop();
  int64_t watchers() const { return count_; }

 private:
  void Loop();

  absl::Mutex mutex_;
  std::vector<std::weak_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> news_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<Watcher>> soon_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> count_ = 0;
  std::thread thread_;
};

}  // namespace vitscale

#endif  // SERVER_API_WATCH_HUB_H_
