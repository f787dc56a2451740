// JobSpec.from on submission: short forms are completed, and what the coordinator knows of the
// parent is compared, so that a branch that cannot work is refused before it waits for workers.

#ifndef SERVER_API_START_POINT_H_
#define SERVER_API_START_POINT_H_

#include "absl/status/status.h"
#include "server/api/job_directory.h"
#include "server/store/control_store.h"
#include "vitscale/v1/job_spec.pb.h"

namespace vitscale {

// Before the spec is made canonical: "<job>" and "<job>/<checkpoint name>" become the folder below
// the parent's checkpoint.dir; a micro-batch that is not given is that of the parent, so that a
// branch has its bits. A folder of a job that is not known here is left to the workers.
// Errors: NOT_FOUND no such job or checkpoint; FAILED_PRECONDITION it has none yet, it has been
// deleted, or the name is that of several jobs.
absl::Status CompleteStart(const JobDirectory& jobs, ControlStore& store, v1::JobSpec* spec);

// Of a canonical spec. INVALID_ARGUMENT naming what differs from a known parent; see
// worker/config/start_check.h.
absl::Status CheckStartPoint(const JobDirectory& jobs, const v1::JobSpec& spec);

}  // namespace vitscale

#endif  // SERVER_API_START_POINT_H_
