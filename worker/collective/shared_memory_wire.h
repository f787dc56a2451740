// Operations on memory that all ranks map: who writes what when, and how ranks wait.
//
// Everything moves in chunks, counted through the whole generation; chunk k of a rank lies in its
// slot k mod 3. Each rank does the same with each chunk:
//   1. writes its input, and says so: progress 2k + 1;
//   2. waits for the inputs of all, sums its part of them in rank order over its own input of that
//      part, and says so: progress 2k + 2; operations other than sums have no such part;
//   3. writes its input of chunk k + 1 already, then waits for the parts of all and takes them.
// Three slots suffice: who has seen the inputs k of all knows that all have taken chunk k - 2, so
// the slot of chunk k + 1 is free.
//
// Waiting: a short spin, then a futex on the peer's progress for 20 ms at most, after which the
// peer is looked at.

#ifndef WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_
#define WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_

#include <memory>

#include "worker/collective/shared_memory_collective.h"
#include "worker/collective/wire.h"

namespace vitscale {

std::unique_ptr<Wire> MakeSharedMemoryWire(SharedMemoryOptions options);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_
