// Operations on memory that all ranks map: who writes what when, and how ranks wait.
//
// Everything moves in chunks, counted through the whole generation; chunk k of a rank lies in slot
// k mod kSharedDepth of its ring. Each rank does with each chunk k of an operation:
//   1. write: its input, and count it (Mark::kInputs);
//   2. sum, once the inputs k of all are there: its part of them in rank order, over its own input
//      of that part, and count it (Mark::kParts);
//   3. take, once the parts k of all are there: copy them to where they belong.
// Operations other than sums have no step 2 and take once the inputs are there.
//
// So that ranks need not keep pace, in turn t a rank writes chunk t, sums chunk t - kSumLag and
// takes chunk t - kSumLag - kTakeLag. A slot is never written before all have taken what is in it:
// who writes chunk t has seen the inputs t - 1 - kSumLag of all (or, at the start of an operation,
// the end of the one before), so all have finished turn t - 2 - kSumLag, hence have taken chunk
// t - 2 - 2 kSumLag - kTakeLag: with a ring as long as that, its slot is free.
//
// Waiting: a short spin, then a futex on the peer's count for 20 ms at most, after which the peer
// is looked at.

#ifndef WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_
#define WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_

#include <memory>

#include "worker/collective/shared_memory_collective.h"
#include "worker/collective/wire.h"

namespace vitscale {

std::unique_ptr<Wire> MakeSharedMemoryWire(SharedMemoryOptions options);

}  // namespace vitscale

#endif  // WORKER_COLLECTIVE_SHARED_MEMORY_WIRE_H_
