// Collectives between ranks of which some or all share a host: sums in memory that those of a host
// map, and over TCP between hosts.
//
// - Sums: element by element in rank order, ((rank 0 + rank 1) + rank 2) …, in f32: the bits depend
//   on the ranks only, neither on buckets nor on timing. Those of Gloo's ring differ from 3 ranks
//   on. With several hosts the sums of each, by their lowest ranks, go through Gloo's ring.
// - Ranks meet like those of Gloo (rendezvous.h). If each turns out to be alone on its host,
// Connect
//   fails on all of them with a status for which IsNotOneHost holds, and Gloo may be tried with the
//   same identity.
// - A rank whose process ends, however it ends, is noticed within about 100 ms (its pidfd); one
//   that aborts at once.
// - Memory: 8 chunks per rank of a host for as long as the object lives, in a memfd: /dev/shm and
// its limit
//   play no part.
// - Ranks trust each other: whoever maps the memory can spoil the sums of all. It cannot make a
//   peer read or write anywhere else.

#ifndef WORKER_COLLECTIVE_SHARED_MEMORY_COLLECTIVE_H_
#define WORKER_COLLECTIVE_SHARED_MEMORY_COLLECTIVE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "worker/collective/collective.h"
#include "worker/collective/host_card.h"  // IsNotOneHost
#include "worker/collective/rendezvous.h"

namespace vitscale {

struct SharedMemoryOptions : MeetingOptions {
  // Equal on all ranks; whole pages, at most 64 MiB. Small ones stay in the cache, large ones wait
  // less often.
  int64_t chunk_bytes = 512 << 10;
  // Not 0: this rank says to be on another host than ranks with another number, whatever machine it
  // runs on. For tests.
  uint64_t host = 0;
  std::string data_address = "127.0.0.1";  // as GlooOptions: for several hosts
};

// Nothing is opened before Connect. 2 to 64 ranks on a host. `algorithm()` is
// "shared_memory_in_order"; with several hosts "shared_memory_in_order on hosts 0,0,1, gloo_ring",
// a number for each rank.
std::unique_ptr<Collective> MakeSharedMemoryCollective(SharedMemoryOptions options);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_MEMORY_COLLECTIVE_H_
