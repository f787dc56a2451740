// Who gets which workers: a pure function of the queue and the devices.
//
// Gang: all or nothing. Order: priority, then the owner's decayed share, then age; share orders the
// queue and never preempts. Only the first in line that fits this cluster at all may preempt, and
// only strictly lower priority. Devices that come free for it are kept for it, so that nobody slips
// in between a victim and its preemptor.

#ifndef SERVER_CORE_SCHEDULER_H_
#define SERVER_CORE_SCHEDULER_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale {

// Views: what they name must outlive the call. With thousands of queued jobs copies would cost more
// than the decision.
struct QueuedJob {
  absl::string_view id;
  int priority = 0;
  double share = 0;    // decayed device-seconds of its owner
  int64_t number = 0;  // order of submission
  int need = 1;        // workers
  v1::Device device = v1::DEVICE_ANY;
  absl::Duration waited;
  absl::Duration backoff_left;     // above zero: not placed yet
  absl::string_view avoid_worker;  // taken only if there is no other
  absl::string_view reason;        // why it waits as of the last round; only a change is reported
};

enum class DeviceStatus {
  kFree,
  kComing,    // its job is leaving
  kHeld,      // by a job that runs
  kUnusable,  // unreachable, quarantined, draining, not heard of yet
};
// Whether a job that wants the one may have the other, a device's kind.
bool Admits(v1::Device wanted, v1::Device kind);

struct SchedulerDevice {
  absl::string_view worker_id;
  v1::Device kind = v1::DEVICE_CPU;
  absl::string_view numeric_class;  // a gang is of one class
  DeviceStatus status = DeviceStatus::kUnusable;
  bool coming_preempted = false;  // its job leaves because it was preempted
};

struct RunningJob {
  absl::string_view id;
  int priority = 0;
  absl::Time attempt_start;
  int recent_preemptions = 0;  // within the last hour
  std::vector<absl::string_view> workers;
};

struct SchedulerInput {
  std::vector<QueuedJob> queue;          // any order
  std::vector<SchedulerDevice> devices;  // by worker id
  std::vector<RunningJob> running;       // intent run only
  absl::Duration reservation_after;
};

struct PlacementDecision {
  std::string job_id;
  std::vector<std::string> workers;  // by rank
};
struct PreemptionDecision {
  std::string victim;
  std::string job_id;  // for whom
};
// Why a job waits, where that has changed.
struct WaitDecision {
  std::string job_id;
  std::string code;
  std::string text;
};
struct SchedulerOutput {
  std::vector<PlacementDecision> placements;
  std::vector<PreemptionDecision> preemptions;
  std::vector<WaitDecision> waits;
  std::string reserved_for;           // job id; empty: no reservation
  std::vector<std::string> reserved;  // worker ids
};

SchedulerOutput Schedule(const SchedulerInput& input);

// Workers of one name may form a gang: of one kind, version and libraries. CPU ranks are lowered to
// the common instruction set; cards must be of one model.
std::string NumericClassOf(const v1::Worker& worker);

}  // namespace vitscale

#endif  // SERVER_CORE_SCHEDULER_H_
