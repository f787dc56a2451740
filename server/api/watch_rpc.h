// Server streams that follow something: one message in flight, what is next is read from the stores
// when it is needed, so a slow reader holds nothing in memory.

#ifndef SERVER_API_WATCH_RPC_H_
#define SERVER_API_WATCH_RPC_H_

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "server/api/call_rpc.h"
#include "server/api/watch_hub.h"

namespace vitscale {

template <typename Message>
class WatchReactor : public grpc::ServerWriteReactor<Message>,
                     public Watcher,
                     public std::enable_shared_from_this<WatchReactor<Message>> {
 public:
  WatchReactor(Coordinator& coordinator, AdmittedCall call, std::string job_id)
      : coordinator_(coordinator), call_(std::move(call)), job_id_(std::move(job_id)) {}

  // Keeps itself alive until gRPC is done with it.
  static grpc::ServerWriteReactor<Message>* Run(std::shared_ptr<WatchReactor> reactor) {
    reactor->self_ = reactor;
    if (!reactor->call_.status().ok()) {
      reactor->End(reactor->call_.status());
    } else {
      reactor->coordinator_.hub().Add(reactor);
    }
    return reactor.get();
  }

  const std::string& job_id() const override { return job_id_; }

  void Wake() override {
    absl::MutexLock lock(&mutex_);
    if (writing_ || ended_) return;
    if (ready_.empty()) {
      bool done = false;
      const absl::Status status = Gather(&ready_, &done);
      if (!status.ok()) return EndLocked(status);
      if (ready_.empty() && done) return EndLocked(absl::OkStatus());
      done_ = done;
    }
    if (!ready_.empty()) Write();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (ended_) return;
    ready_.pop_front();
    if (!ok) return EndLocked(absl::CancelledError("the client is gone"));
    if (!ready_.empty()) return Write();
    if (done_) return EndLocked(absl::OkStatus());
    coordinator_.hub().WakeSoon(this->weak_from_this());
  }
  void OnCancel() override { End(absl::CancelledError("cancelled by the client")); }
  void OnDone() override { self_.reset(); }

 protected:
  // Appends what is new since the last call; `done`: after it there will be nothing more. Called by
  // one thread at a time.
  virtual absl::Status Gather(std::deque<Message>* messages, bool* done) = 0;

  void SetJob(std::string job_id) { job_id_ = std::move(job_id); }
  Coordinator& coordinator_;

 private:
  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    writing_ = true;
    this->StartWrite(&ready_.front());
  }
  void End(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    EndLocked(status);
  }
  void EndLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (std::exchange(ended_, true)) return;
    this->Finish(call_.Done(status));
  }

  AdmittedCall call_;
  std::string job_id_;
  std::shared_ptr<WatchReactor> self_;
  absl::Mutex mutex_;
  std::deque<Message> ready_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

grpc::ServerWriteReactor<v1::WatchJobResponse>* RunWatchJob(Coordinator& coordinator,
                                                            AdmittedCall call,
                                                            const v1::WatchJobRequest& request);
grpc::ServerWriteReactor<v1::Event>* RunStreamEvents(Coordinator& coordinator, AdmittedCall call,
                                                     const v1::StreamEventsRequest& request);
grpc::ServerWriteReactor<v1::LogLine>* RunStreamLogs(Coordinator& coordinator, AdmittedCall call,
                                                     const v1::StreamLogsRequest& request);

}  // namespace vitscale

#endif  // SERVER_API_WATCH_RPC_H_
