// Asks a card's driver what is going on there, again and again, on a thread of its own: a driver
// that hangs must not stop the agent's loop.

#ifndef WORKER_AGENT_CARD_WATCH_H_
#define WORKER_AGENT_CARD_WATCH_H_

#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/card/nvml.h"
#include "worker/link/messages.h"

namespace vitscale::agent {

// What the coordinator is told of a card: its numbers as they are, and why it is dirty if `trainer`
// is not on it. `trainer`: the process group of the own trainer, whose processes are not foreign;
// 0: none. A card that cannot be read is dirty: nobody knows that it is free. Within a container
// the driver's process ids are not ours: then a trainer is not found among them, and none counts as
// foreign while it runs.
link::DeviceUse DeviceUseOf(const absl::StatusOr<Card>& card, int64_t trainer,
                            const std::function<int64_t(int64_t pid)>& group_of);

class CardWatch {
 public:
  // `seen` is called on the watch's thread: at once, then every `interval`.
  CardWatch(std::unique_ptr<Nvml> nvml, int card, absl::Duration interval,
            std::function<void(const absl::StatusOr<Card>&)> seen);
  ~CardWatch();

 private:
  void Run();

  const std::unique_ptr<Nvml> nvml_;
  const int card_;
  const absl::Duration interval_;
  const std::function<void(const absl::StatusOr<Card>&)> seen_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_CARD_WATCH_H_
