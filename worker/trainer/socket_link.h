// The trainer's end of the socket pair: orders in, reports out. A slow agent never holds up
// training: reports that have not been sent are merged, the newest state over the older, records
// one after the other.

#ifndef WORKER_TRAINER_SOCKET_LINK_H_
#define WORKER_TRAINER_SOCKET_LINK_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/unique_fd.h"
#include "worker/link/channel.h"
#include "worker/link/messages.h"
#include "worker/trainer/shell.h"

namespace vitscale {

class SocketLink : public ReportSink {
 public:
  // `on_order` is called from a thread of the link. `on_end`: the peer is gone or sent garbage.
  SocketLink(UniqueFd fd, std::function<void(link::TrainerOrder)> on_order,
             std::function<void(const absl::Status&)> on_end);
  ~SocketLink() override;

  void Send(link::TrainerReport report) override;
  void Flush(absl::Duration timeout) override;

 private:
  void Receive(const std::function<void(link::TrainerOrder)>& on_order,
               const std::function<void(const absl::Status&)>& on_end);
  void SendPending();

  link::Channel channel_;
  absl::Mutex mutex_;
  link::TrainerReport pending_ ABSL_GUARDED_BY(mutex_);
  bool has_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread receiver_, sender_;
};

}  // namespace vitscale

#endif  // WORKER_TRAINER_SOCKET_LINK_H_
