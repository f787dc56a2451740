// Waiting for a condition of an absl::Mutex with a time-out that no change of the wall clock moves.
//
// absl::Mutex::AwaitWithTimeout of Abseil 20220623 turns its time-out into a wall-clock deadline: a
// clock that is set back by an hour while somebody waits makes the wait an hour longer. Programs
// that must see to leases and dead children cannot have that.

#ifndef KERNELS_BASE_AWAIT_H_
#define KERNELS_BASE_AWAIT_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace vitscale {

// Returns with the mutex held: true once the condition holds, false if it did not within `timeout`
// by CLOCK_MONOTONIC. A time-out of zero or less only looks; an infinite one waits as Await does.
bool AwaitFor(absl::Mutex& mutex, const absl::Condition& condition, absl::Duration timeout)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

}  // namespace vitscale

#endif  // KERNELS_BASE_AWAIT_H_
