// Every duration and limit of the core. Production values; tests set them short.

#ifndef SERVER_CORE_OPTIONS_H_
#define SERVER_CORE_OPTIONS_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace vitscale {

struct CoreOptions {
  // Between heartbeats of an agent, and the silence after which a worker is unreachable (nothing
  // new is placed on it; it breaks nothing).
  absl::Duration heartbeat = absl::Seconds(2);
  absl::Duration lease = absl::Seconds(15);
  // How long a trainer goes on without the coordinator; a device belongs to its generation for this
  // and the margin after the last heartbeat that was received. The worker stops first.
  absl::Duration orphan_window = absl::Minutes(10);
  absl::Duration ownership_margin = absl::Seconds(15);
  // An agent that comes back within this after a break counts as present.
  absl::Duration ready_deadline = absl::Seconds(10);
  // Told to the trainers with each generation.
  absl::Duration rendezvous_deadline = absl::Seconds(10);
  // From placement (or a new trainer) to a built plan; and from go to the first step of a process.
  absl::Duration prepare_deadline = absl::Minutes(10);
  // After a failed collective: how long the cause is waited for.
  absl::Duration cause_wait = absl::Milliseconds(300);
  // A generation with an unreachable member is broken when no member has advanced for this, or 3
  // times its slowest recent step.
  absl::Duration advance_deadline = absl::Seconds(15);
  // A trainer that was asked to leave without a save.
  absl::Duration exit_grace = absl::Seconds(10);
  // A device that is not free this long after the kill is quarantined, doubling up to the maximum.
  absl::Duration quarantine_after = absl::Seconds(60);
  absl::Duration quarantine_min = absl::Seconds(60);
  absl::Duration quarantine_max = absl::Hours(1);
  // Between attempts that made no progress, doubling.
  absl::Duration backoff_min = absl::Seconds(10);
  absl::Duration backoff_max = absl::Minutes(10);
  // Between two looks of the scheduler: a burst of submissions is decided at once.
  absl::Duration schedule_interval = absl::Milliseconds(20);
  // The first in line gets a reservation after waiting this long, or at once if it preempts.
  absl::Duration reservation_after = absl::Minutes(10);
  // Of an owner's share.
  absl::Duration share_half_life = absl::Hours(24);
  // A job preempted twice within this is chosen last.
  absl::Duration preemption_memory = absl::Hours(1);
  // Answers are kept in memory this long after the commit; the store keeps them 7 days.
  absl::Duration request_memory = absl::Minutes(10);
  // A lost worker's row is kept this long.
  absl::Duration forget_worker = absl::Hours(24);

  // INVALID_ARGUMENT naming the pair that does not fit: lease >= 3 heartbeats, orphan window >=
  // lease, …
  absl::Status Check() const;
};

}  // namespace vitscale

#endif  // SERVER_CORE_OPTIONS_H_
