// How ranks that share hosts meet, and what they do together: sums in memory on each host, by TCP
// between hosts.
//
// Connect: all ranks exchange host cards; those of one host map memory of their leader, the lowest
// rank of it (shared_handover.h); where there are several hosts, all ranks say in a second
// rendezvous whether they could, and the leaders connect (gloo_mesh.h).
//
// An operation between hosts has three parts: together on each host, so that its leader has what
// the host gives; between the leaders; from each leader to its host. A loss on one side of them
// reaches the other because whoever fails shuts down both.

#ifndef WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_
#define WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_

#include <memory>

#include "worker/collective/shared_memory_collective.h"
#include "worker/collective/wire.h"

namespace vitscale {

std::unique_ptr<Wire> MakeSharedMemoryWire(SharedMemoryOptions options);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_
