#include "worker/agent/event_queue.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "kernels/base/status.h"

namespace vitscale::agent {

EventQueue::EventQueue() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  VITSCALE_CHECK(fd_.valid()) << "eventfd";
}

void EventQueue::Post(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  work_.push_back(std::move(work));
  const uint64_t one = 1;
  (void)!write(fd_.get(), &one, sizeof(one));  // fails only when it is readable anyway
}

std::vector<std::function<void()>> EventQueue::Take() {
  absl::MutexLock lock(&mutex_);
  uint64_t count = 0;
  (void)!read(fd_.get(), &count, sizeof(count));
  return std::exchange(work_, {});
}

}  // namespace vitscale::agent
