// Collectives between ranks with a GPU each: sums of buckets and control records go through their
// devices' communicator, everything else through a wire between their hosts.
//
// - Buckets lie in the memory of the rank's device (DeviceBytes) and are complete when Start is
//   called, as they are when a backend tells GradientsReady. Sums run on the communicator's own
//   stream behind backward, one after another without the host between them.
// - The control record follows the last bucket on that stream, so whoever has all records has all
//   sums. A step is applied only then: an aborted sum cannot reach the state.
// - The communicator knows no tags. Every rank keeps a hash of what it asked for, which travels
//   with each gather: ranks that asked for different things learn it before the gate.
// - The communicator does not notice a peer that is gone; the hosts' connections do, within 100 ms,
//   and a deadline in any case. Either way it is aborted.
//
// Errors tell whose they are: INTERNAL and RESOURCE_EXHAUSTED, of this rank's device or its
// library; INVALID_ARGUMENT, ranks that may not be connected (two on one device); else of a peer or
// the way to it.
//
// `values` of Collective::Start are addresses of the device: not for the host to touch.

#ifndef WORKER_COLLECTIVE_NCCL_COLLECTIVE_H_
#define WORKER_COLLECTIVE_NCCL_COLLECTIVE_H_

#include <memory>

#include "kernels/communicator.h"
#include "worker/collective/collective.h"
#include "worker/collective/gloo_collective.h"
#include "worker/collective/wire.h"

namespace vitscale {

// `communicator` is a fresh one. Nothing is opened before Connect. `algorithm()` is the
// communicator's.
std::unique_ptr<Collective> MakeNcclCollective(GlooOptions options,
                                               std::unique_ptr<Communicator> communicator);

// `hosts` connects the same ranks.
std::unique_ptr<Wire> MakeNcclWire(std::unique_ptr<Wire> hosts,
                                   std::unique_ptr<Communicator> communicator);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_NCCL_COLLECTIVE_H_
