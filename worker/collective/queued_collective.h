// A Collective over any Wire: a thread that runs operations in order, deadlines, abort, suspects.
//
// Every error, a time-out too, aborts: no peer waits longer than this rank did. While a caller
// waits, the peers are looked at every 50 ms: a peer that is seen gone twice ends the wait.

#ifndef WORKER_COLLECTIVE_QUEUED_COLLECTIVE_H_
#define WORKER_COLLECTIVE_QUEUED_COLLECTIVE_H_

#include <memory>

#include "worker/collective/collective.h"
#include "worker/collective/wire.h"

namespace vitscale {

std::unique_ptr<Collective> MakeQueuedCollective(std::unique_ptr<Wire> wire);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_QUEUED_COLLECTIVE_H_
