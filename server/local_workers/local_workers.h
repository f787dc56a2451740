// `vitscaled --local-workers N`: agents on this machine, one per CPU device cpu0 … cpu<N-1>.
//
// Each agent runs in a session of its own and outlives a killed coordinator. A restarted
// coordinator finds it by its device lock: only devices whose lock is free get a new agent. A dead
// agent is started again after 1 s, then 2 s, … up to 30 s; an agent that lived for a minute starts
// the count anew.
//
// A thread of its own starts them and lives as long as this object, since a child may ask for a
// signal when the thread that made it ends.

#ifndef SERVER_LOCAL_WORKERS_LOCAL_WORKERS_H_
#define SERVER_LOCAL_WORKERS_LOCAL_WORKERS_H_

#include <sys/types.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/base/clock.h"

namespace vitscale {

struct LocalWorkersOptions {
  int count = 0;
  std::string program;          // absolute path of vitscale-worker
  std::string id_prefix;        // worker ids are "<prefix>cpu<i>"
  std::string lock_directory;   // holds cpu<i>.lock
  std::string state_directory;  // each agent gets <state_directory>/<worker id> and <worker id>.log
  std::vector<std::string> flags;  // for every agent: --coordinator, --threads, roots, …
  absl::Duration
      first_start;  // wait before the first start: a lease, if the state has seen another term
  absl::Duration backoff_min = absl::Seconds(1);
  absl::Duration backoff_max = absl::Seconds(30);
  absl::Duration poll = absl::Milliseconds(100);
};

class LocalWorkers {
 public:
  LocalWorkers(LocalWorkersOptions options, Clock& clock);
  ~LocalWorkers();  // ends the thread; agents go on, as after a kill

  // Asks every agent to leave (SIGTERM: it drains its job), waits until all devices are free, and
  // kills the sessions that are not after `grace`. DEADLINE_EXCEEDED names devices that even then
  // are not free. Starts nothing any more.
  absl::Status Stop(absl::Duration grace);

  // Process ids of living agents by device, 0 where there is none; own children and those of an
  // earlier life.
  std::vector<pid_t> Agents() const;

 private:
  struct Slot {
    pid_t child = 0;  // 0: none of ours
    absl::Time started = absl::InfinitePast();
    absl::Time next_start = absl::InfinitePast();
    absl::Duration backoff;
  };

  void Run();
  void Tend(int device, absl::Time now);
  bool Reap(int device, absl::Time now);
  void StartAgent(int device, absl::Time now);
  std::string DeviceName(int device) const;
  std::string LockPath(int device) const;
  pid_t Owner(
      int device) const;  // agent that holds the lock; 0: lock free, or its holder is none of ours
  bool IsFree(int device) const;
  void SignalAll(int signal);
  bool WaitUntilFree(absl::Duration wait);

  const LocalWorkersOptions options_;
  Clock& clock_;
  mutable absl::Mutex mutex_;
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;  // start nothing
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // leave the thread
  std::thread thread_;
};

}  // namespace vitscale

#endif  // SERVER_LOCAL_WORKERS_LOCAL_WORKERS_H_
