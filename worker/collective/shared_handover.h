// How ranks of one host come to share memory: rank 0 hands the memory and a pidfd of every rank to
// all, over a Unix socket.
//
// An abstract address and passed descriptors need neither a common file system nor common process
// ids: ranks in containers that share a network namespace can do it. What all ranks say in the
// rendezvous (HostCard) tells whether it can work; the nonce in rank 0's card, known only to those
// who met there, and the user id keep other processes of the host out.
//
// All ranks end alike: either all have mapped the memory, or none goes on.

#ifndef WORKER_COLLECTIVE_SHARED_HANDOVER_H_
#define WORKER_COLLECTIVE_SHARED_HANDOVER_H_

#include <functional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/unique_fd.h"
#include "worker/collective/host_card.h"
#include "worker/collective/shared_region.h"

namespace vitscale {

struct HandoverTerms {
  int rank = 0;
  int world_size = 0;
  HostCard host;                    // of rank 0
  absl::Time deadline;              // monotonic
  std::function<bool()> cancelled;  // asked every 20 ms
};

// Makes the memory, at the leader.
using MakeMemory = absl::FunctionRef<absl::StatusOr<UniqueFd>()>;
// Maps the memory that came; its status decides for this rank.
using MapMemory = absl::FunctionRef<absl::Status(int memory)>;

// Rank 0, before the rendezvous: listens at the address that `card.socket` names.
absl::StatusOr<UniqueFd> ListenForHandover(const HostCard& card);
// Both return the pidfds of all ranks, in rank order. NotOneHost: some rank could not do it;
// UNAVAILABLE: some rank was lost; CANCELLED.
absl::StatusOr<std::vector<UniqueFd>> HandOut(const HandoverTerms& terms, int listener,
                                              MakeMemory make, MapMemory map);
absl::StatusOr<std::vector<UniqueFd>> Receive(const HandoverTerms& terms, MapMemory map);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_HANDOVER_H_
