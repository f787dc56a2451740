// What a command line says a job shall start from: the checkpoint, and the job file of the run that
// wrote it.

#ifndef CLIENT_START_H_
#define CLIENT_START_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/context.h"
#include "vitscale/v1/job_spec.pb.h"

namespace vitscale {

// JobSpec.from for what a user wrote: a job, a checkpoint id, or a checkpoint folder. A folder that
// can be seen from here becomes "<job id>/<checkpoint name>" where the coordinator knows that very
// folder, else its absolute path; anything else is passed on as it is.
std::string FromOf(ControlClient& client, const std::string& checkpoint);

// A checkpoint folder that can be seen from here and holds weights from elsewhere: no run is behind
// it, and what stands in its manifest as a job file is only as much as is valid.
bool IsImported(const std::string& checkpoint);

// The job file of the run: that in the manifest where the folder can be seen from here, else that
// of the job at the coordinator. NOT_FOUND where neither is there: a job file is needed then.
absl::StatusOr<v1::JobSpec> SpecBehind(ControlClient& client, const std::string& checkpoint);

// A name for a job that starts from `run`: "<name>-<what>", cut to what a name may have.
std::string NameAfter(const std::string& run, const std::string& what);

}  // namespace vitscale

#endif  // CLIENT_START_H_
