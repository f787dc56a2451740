#include "worker/collective/shared_peers.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vitscale {
namespace {

constexpr int kSpins = 2000;  // some 40 µs: what a wake-up costs
constexpr timespec kSlice = {0, 20'000'000};

// The time-out of FUTEX_WAIT is measured by CLOCK_MONOTONIC. Not FUTEX_PRIVATE: processes share it.
void FutexWait(std::atomic<uint32_t>& word, uint32_t seen) {
  (void)syscall(SYS_futex, &word, FUTEX_WAIT, seen, &kSlice, nullptr, 0);
}
void FutexWakeAll(std::atomic<uint32_t>& word) {
  (void)syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

SharedPeers::SharedPeers(std::unique_ptr<SharedRegion> region, std::vector<UniqueFd> processes,
                         int rank)
    : region_(std::move(region)), processes_(std::move(processes)), rank_(rank) {}

// Also right after the count has wrapped: ranks are never 2^31 apart.
bool SharedPeers::Goal::ReachedBy(const RankBlock& block) const {
  return static_cast<int32_t>(block.done[static_cast<int>(mark)].load() - chunks) >= 0;
}

// Sequentially consistent against the sleeper in Await: either it is seen here, or the kernel sees
// the new count there and does not sleep.
void SharedPeers::Advance(Mark mark, uint64_t chunks) {
  const int at = static_cast<int>(mark);
  RankBlock& own = region_->block(rank_);
  own.done[at].store(static_cast<uint32_t>(chunks));
  if (own.sleepers[at].load() != 0) FutexWakeAll(own.done[at]);
}

absl::Status SharedPeers::AwaitAll(Mark mark, uint64_t chunks) {
  const Goal goal = {mark, static_cast<uint32_t>(chunks)};
  goal_.store(goal);
  for (int rank = 0; rank < static_cast<int>(processes_.size()); ++rank) {
    if (rank == rank_ || goal.ReachedBy(region_->block(rank))) continue;
    if (const absl::Status status = Await(rank, goal); !status.ok()) return status;
  }
  awaited_.store(-1);
  return absl::OkStatus();
}

absl::Status SharedPeers::Await(int rank, Goal goal) {
  RankBlock& block = region_->block(rank);
  for (int i = 0; i < kSpins; ++i) {
    if (goal.ReachedBy(block)) return absl::OkStatus();
    _mm_pause();
  }
  awaited_.store(rank);
  const int at = static_cast<int>(goal.mark);
  while (true) {
    const uint32_t seen = block.done[at].load();
    if (goal.ReachedBy(block)) return absl::OkStatus();
    if (left_.load()) return absl::CancelledError("ended");
    if (IsGone(rank)) {
      return absl::UnavailableError(
          absl::StrCat("rank ", rank, Ended(rank) ? ": its process has ended" : " has left"));
    }
    block.sleepers[at].fetch_add(1);
    FutexWait(block.done[at], seen);
    block.sleepers[at].fetch_sub(1);
  }
}

// Wakes the own wait, whichever rank it is for, and the peers' waits for this rank. Others wake
// each other in turn as they fail.
void SharedPeers::Leave() {
  left_.store(true);
  region_->block(rank_).left.store(1);
  for (size_t rank = 0; rank < processes_.size(); ++rank) {
    for (auto& count : region_->block(rank).done) FutexWakeAll(count);
  }
}

bool SharedPeers::Ended(int rank) const {
  pollfd entry{processes_[rank].get(), POLLIN, 0};
  return poll(&entry, 1, 0) > 0;
}

// Its count is read last: a rank that has done its part may leave.
bool SharedPeers::IsGone(int rank) const {
  const RankBlock& block = region_->block(rank);
  const bool gone = block.left.load() != 0 || Ended(rank);
  return gone && !goal_.load().ReachedBy(block);
}

std::vector<int> SharedPeers::Gone() const {
  std::vector<int> gone;
  for (int rank = 0; rank < static_cast<int>(processes_.size()); ++rank) {
    if (rank != rank_ && IsGone(rank)) gone.push_back(rank);
  }
  return gone;
}

std::vector<int> SharedPeers::GoneFirst() const {
  const std::vector<int> gone = Gone();
  std::vector<int> ended;
  for (int rank : gone) {
    if (Ended(rank)) ended.push_back(rank);
  }
  return ended.empty() ? gone : ended;
}

}  // namespace vitscale
