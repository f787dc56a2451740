// For which workers a job is planned when it is submitted.

#ifndef SERVER_API_PLAN_DEVICES_H_
#define SERVER_API_PLAN_DEVICES_H_

#include <vector>

#include "absl/types/span.h"
#include "vitscale/v1/job.pb.h"
#include "vitscale/v1/job_spec.pb.h"
#include "worker/config/micro_batch.h"

namespace vitscale {

// Those that the scheduler may give to the job: of the kind that it wants, and as many of one
// numeric class as it needs. Fewer count only where no class has enough, and lost ones only where
// nobody else is known: a machine that was switched off for good must not decide. In the order of
// `workers`; empty where nothing is known.
std::vector<DeviceLimits> DevicesFor(const v1::JobSpec& canonical,
                                     absl::Span<const v1::Worker> workers);

}  // namespace vitscale

#endif  // SERVER_API_PLAN_DEVICES_H_
