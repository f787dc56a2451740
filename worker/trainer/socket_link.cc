#include "worker/trainer/socket_link.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/base/await.h"
#include "kernels/base/log.h"
#include "worker/link/codec.h"

namespace vitscale {
namespace {

constexpr size_t kRecordsPerReport = 1000;  // about 300 bytes each: far below the limit of a frame

}  // namespace

SocketLink::SocketLink(UniqueFd fd, std::function<void(link::TrainerOrder)> on_order,
                       std::function<void(const absl::Status&)> on_end)
    : channel_(std::move(fd)),
      receiver_([this, on_order = std::move(on_order), on_end = std::move(on_end)] {
        Receive(on_order, on_end);
      }),
      sender_([this] { SendPending(); }) {}

SocketLink::~SocketLink() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  channel_.Shutdown();
  receiver_.join();
  sender_.join();
}

void SocketLink::Receive(const std::function<void(link::TrainerOrder)>& on_order,
                         const std::function<void(const absl::Status&)>& on_end) {
  while (true) {
    const auto frame = channel_.Receive();
    if (!frame.ok()) return on_end(frame.status());
    auto order = link::DecodeOrder(*frame);
    if (!order.ok()) return on_end(order.status());
    on_order(*std::move(order));
  }
}

void SocketLink::Send(link::TrainerReport report) {
  absl::MutexLock lock(&mutex_);
  if (report.observed) pending_.observed = std::move(report.observed);
  if (report.metrics) pending_.metrics = std::move(report.metrics);
  std::move(report.records.begin(), report.records.end(), std::back_inserter(pending_.records));
  has_pending_ = true;
}

void SocketLink::SendPending() {
  const auto ready = +[](SocketLink* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
    return self->stopping_ || self->has_pending_;
  };
  while (true) {
    link::TrainerReport report;
    {
      absl::MutexLock lock(&mutex_);
      sending_ = false;
      mutex_.Await(absl::Condition(ready, this));
      if (!has_pending_) return;
      report.observed = pending_.observed;
      report.metrics = pending_.metrics;
      const size_t count = std::min(kRecordsPerReport, pending_.records.size());
      report.records.assign(std::make_move_iterator(pending_.records.begin()),
                            std::make_move_iterator(pending_.records.begin() + count));
      pending_.records.erase(pending_.records.begin(), pending_.records.begin() + count);
      has_pending_ = !pending_.records.empty();
      sending_ = true;
    }
    const absl::Status sent = channel_.Send(link::EncodeReport(report));
    if (!sent.ok()) {
      VITSCALE_LOG(WARNING) << "report to the agent: " << sent.message();
      absl::MutexLock lock(&mutex_);
      has_pending_ = sending_ = false;
      return;
    }
  }
}

void SocketLink::Flush(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  AwaitFor(mutex_,
           absl::Condition(
               +[](SocketLink* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
                 return !self->has_pending_ && !self->sending_;
               },
               this),
           timeout);
}

}  // namespace vitscale
