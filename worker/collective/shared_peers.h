// One rank's view of the control blocks: says how far it is, waits for how far others are.
//
// Advance and AwaitAll belong to one thread, the rest to any.

#ifndef WORKER_COLLECTIVE_SHARED_PEERS_H_
#define WORKER_COLLECTIVE_SHARED_PEERS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/unique_fd.h"
#include "worker/collective/shared_region.h"

namespace vitscale {

class SharedPeers {
 public:
  // `processes`: a pidfd for each rank.
  SharedPeers(std::unique_ptr<SharedRegion> region, std::vector<UniqueFd> processes, int rank);

  SharedRegion& region() const { return *region_; }

  // This rank has done `chunks` chunks: publishes all that it wrote before.
  void Advance(Mark mark, uint64_t chunks);
  // Until every rank has done `chunks` chunks. UNAVAILABLE: a rank that has not is gone; CANCELLED:
  // Leave was called.
  absl::Status AwaitAll(Mark mark, uint64_t chunks);

  // Ends every wait here, now and later; the peers that still need this rank see it.
  void Leave();
  // Gone without having done what this rank waits for.
  std::vector<int> Gone() const;
  // Of those, the ones whose process has ended; if there are none, all of those.
  std::vector<int> GoneFirst() const;
  // The rank that is waited for, -1: none.
  int awaited() const { return awaited_.load(); }

 private:
  // What is waited for; the count wraps.
  struct Goal {
    Mark mark;
    uint32_t chunks;
    bool ReachedBy(const RankBlock& block) const;
  };
  absl::Status Await(int rank, Goal goal);
  bool Ended(int rank) const;
  bool IsGone(int rank) const;

  const std::unique_ptr<SharedRegion> region_;
  const std::vector<UniqueFd> processes_;
  const int rank_;
  std::atomic<bool> left_{false};
  std::atomic<Goal> goal_{Goal{Mark::kInputs, 0}};
  std::atomic<int> awaited_{-1};
};

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_PEERS_H_
