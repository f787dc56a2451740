// Brings work from other threads (gRPC's) into the agent's one loop.

#ifndef WORKER_AGENT_EVENT_QUEUE_H_
#define WORKER_AGENT_EVENT_QUEUE_H_

#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/unique_fd.h"

namespace vitscale::agent {

class EventQueue {
 public:
  EventQueue();  // checks that the kernel gave it a descriptor
  // Any thread.
  void Post(std::function<void()> work);
  // The loop: readable while there is work.
  int fd() const { return fd_.get(); }
  std::vector<std::function<void()>> Take();

 private:
  const UniqueFd fd_;
  absl::Mutex mutex_;
  std::vector<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_EVENT_QUEUE_H_
