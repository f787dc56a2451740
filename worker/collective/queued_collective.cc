#include "worker/collective/queued_collective.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/await.h"
#include "kernels/base/clock.h"
#include "kernels/base/hash.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(50);  // at the peers, while waiting

constexpr absl::Duration kConnectSlack = absl::Seconds(5);

enum class OpKind : uint32_t { kBucket, kBucketSize, kRecords, kAllGather, kBroadcast, kBarrier };

class QueuedCollective : public Collective {
 public:
  explicit QueuedCollective(std::unique_ptr<Wire> wire)
      : wire_(std::move(wire)), thread_([this] { RunOperations(); }) {}

  ~QueuedCollective() override {
    Abort();
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    thread_.join();
  }

  int rank() const override { return wire_->rank(); }
  int world_size() const override { return wire_->world_size(); }
  std::string algorithm() const override { return wire_->algorithm(); }

  absl::Status Connect(absl::Duration timeout) override {
    // The wire keeps the time itself, and knows who is missing.
    return RunAndWait("connect", timeout + kConnectSlack, [this, timeout] {
      VITSCALE_RETURN_IF_ERROR(wire_->Connect(timeout));
      return wire_->Barrier(NextTag(OpKind::kBarrier, 0));
    });
  }

  void Start(int bucket, absl::Span<float> values) override {
    const auto [known, added] = bucket_sizes_.try_emplace(bucket, values.size());
    if (known->second != static_cast<int64_t>(values.size())) {
      Fail(absl::InvalidArgumentError(absl::StrCat("bucket ", bucket, ": has ", values.size(),
                                                   " elements, had ", known->second)));
      return;
    }
    Enqueue(absl::StrCat("bucket ", bucket), [this, bucket, values, first_use = added] {
      if (first_use) VITSCALE_RETURN_IF_ERROR(CompareSizes(bucket, values.size() * sizeof(float)));
      if (values.empty()) return absl::OkStatus();
      VITSCALE_RETURN_IF_ERROR(
          wire_->AllReduceSum(values, NextTag(OpKind::kBucket, values.size())));
      handed_over_ += static_cast<int64_t>(values.size() * sizeof(float));
      return absl::OkStatus();
    });
  }

  absl::StatusOr<std::vector<ControlRecord>> ExchangeRecords(const ControlRecord& own,
                                                             absl::Duration timeout) override {
    const absl::string_view bytes(reinterpret_cast<const char*>(&own), sizeof(own));
    std::string all;
    VITSCALE_RETURN_IF_ERROR(RunAndWait("control records", timeout,
                                        [&] { return Gather(OpKind::kRecords, bytes, all); }));
    std::vector<ControlRecord> records(wire_->world_size());
    std::memcpy(records.data(), all.data(), all.size());
    return records;
  }

  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view own,
                                                     absl::Duration timeout) override {
    std::string all;
    VITSCALE_RETURN_IF_ERROR(
        RunAndWait("all-gather", timeout, [&] { return Gather(OpKind::kAllGather, own, all); }));
    std::vector<std::string> parts;
    for (int i = 0; i < wire_->world_size(); ++i) {
      parts.push_back(all.substr(i * own.size(), own.size()));
    }
    return parts;
  }

  absl::Status Broadcast(int root, absl::Span<std::byte> bytes, absl::Duration timeout) override {
    return RunAndWait("broadcast", timeout, [&] {
      return wire_->Broadcast(root, bytes, NextTag(OpKind::kBroadcast, bytes.size()));
    });
  }

  absl::Status Barrier(absl::Duration timeout) override {
    return RunAndWait("barrier", timeout,
                      [this] { return wire_->Barrier(NextTag(OpKind::kBarrier, 0)); });
  }

  void Abort() override { Fail(absl::CancelledError("collective: aborted")); }

  std::vector<int> suspects() const override {
    absl::MutexLock lock(&mutex_);
    return suspects_;
  }

  int64_t bytes_handed_over() const override { return handed_over_; }

 private:
  struct Operation {
    std::string name;
    std::function<absl::Status()> run;
    bool* done = nullptr;  // set under mutex_ when it has ended, with or without success
  };

  // ---- of the operations' thread ----

  void RunOperations() {
    while (true) {
      Operation operation;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(
            +[](QueuedCollective* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mutex_) {
              return self->stopping_ || !self->queue_.empty();
            },
            this));
        if (queue_.empty()) break;
        operation = std::move(queue_.front());
        queue_.pop_front();
        running_ = operation.name;
      }
      if (Alive()) {
        const absl::Status status = operation.run();
        if (!status.ok()) Fail(Annotate(status, operation.name));
      }
      absl::MutexLock lock(&mutex_);
      running_.clear();
      if (operation.done != nullptr) *operation.done = true;
    }
  }

  absl::Status Gather(OpKind kind, absl::string_view own, std::string& all) {
    all.resize(own.size() * wire_->world_size());
    VITSCALE_RETURN_IF_ERROR(
        wire_->AllGather(own, absl::MakeSpan(all.data(), all.size()), NextTag(kind, own.size())));
    if (kind != OpKind::kBucketSize) handed_over_ += static_cast<int64_t>(own.size());
    return absl::OkStatus();
  }

  // Ranks that disagree about a size would fail without naming it, or wait until the deadline: so
  // the first use of a bucket says it.
  absl::Status CompareSizes(int bucket, int64_t bytes) {
    const int64_t own[2] = {bucket, bytes};
    std::string all;
    VITSCALE_RETURN_IF_ERROR(
        Gather(OpKind::kBucketSize,
               absl::string_view(reinterpret_cast<const char*>(own), sizeof(own)), all));
    for (int rank = 0; rank < wire_->world_size(); ++rank) {
      int64_t theirs[2];
      std::memcpy(theirs, all.data() + rank * sizeof(theirs), sizeof(theirs));
      if (theirs[0] == own[0] && theirs[1] == own[1]) continue;
      return absl::UnavailableError(absl::StrCat(
          "collective mismatch: rank ", rank, " has bucket ", theirs[0], " of ", theirs[1],
          " bytes, rank ", wire_->rank(), " bucket ", own[0], " of ", own[1]));
    }
    return absl::OkStatus();
  }

  // Ranks that do different things get different tags and wait (until the deadline) instead of
  // mixing bytes.
  uint32_t NextTag(OpKind kind, uint64_t size) {
    const uint64_t hash =
        CombineHash(CombineHash(++operations_, static_cast<uint64_t>(kind)), size);
    return static_cast<uint32_t>(hash);
  }

  // ---- of any thread ----

  bool Alive() const {
    absl::MutexLock lock(&mutex_);
    return broken_.ok();
  }

  void Enqueue(std::string name, std::function<absl::Status()> run, bool* done = nullptr) {
    absl::MutexLock lock(&mutex_);
    queue_.push_back(Operation{std::move(name), std::move(run), done});
  }

  absl::Status RunAndWait(absl::string_view name, absl::Duration timeout,
                          std::function<absl::Status()> run) {
    const absl::Time deadline = RealClock().Monotonic() + timeout;
    bool done = false;
    Enqueue(std::string(name), std::move(run), &done);
    bool peer_gone = false;
    while (!AwaitDone(&done, std::min(kLookEvery, deadline - RealClock().Monotonic()))) {
      if (RealClock().Monotonic() >= deadline) {
        Fail(absl::UnavailableError(absl::StrCat(RunningOr(name), ": no answer within ",
                                                 absl::FormatDuration(timeout))),
             /*timed_out=*/true);
        break;
      }
      // The operation mostly notices by itself and says more: give it until the next look.
      const std::vector<int> closed = wire_->ClosedPeers();
      if (peer_gone && !closed.empty()) {
        Fail(absl::UnavailableError(absl::StrCat(
            RunningOr(name), ": rank ", absl::StrJoin(closed, ", "), " closed the connection")));
        break;
      }
      peer_gone = !closed.empty();
    }
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        &done));  // after a failure the shutdown ends it; then its buffers are ours again
    return broken_;
  }

  bool AwaitDone(bool* done, absl::Duration wait) {
    absl::MutexLock lock(&mutex_);
    return vitscale::AwaitFor(mutex_, absl::Condition(done), wait);
  }
  std::string RunningOr(absl::string_view name) const {
    absl::MutexLock lock(&mutex_);
    return running_.empty() ? std::string(name) : running_;
  }

  // The first reason stays. Ends whatever waits here and at the peers.
  void Fail(absl::Status reason, bool timed_out = false) {
    absl::MutexLock lock(&mutex_);
    if (broken_.ok()) {
      broken_ = std::move(reason);
      if (!absl::IsCancelled(broken_)) suspects_ = wire_->Suspects(timed_out);
    }
    wire_->Shutdown();
  }

  const std::unique_ptr<Wire> wire_;
  std::map<int, int64_t> bucket_sizes_;  // of the caller's thread
  uint64_t operations_ = 0;              // of the operations' thread
  std::atomic<int64_t> handed_over_{0};  // bytes

  mutable absl::Mutex mutex_;
  std::deque<Operation> queue_ ABSL_GUARDED_BY(mutex_);
  std::string running_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> suspects_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Collective> MakeQueuedCollective(std::unique_ptr<Wire> wire) {
  return std::make_unique<QueuedCollective>(std::move(wire));
}

}  // namespace vitscale
