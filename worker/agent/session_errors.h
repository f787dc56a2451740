// What a failed call to the coordinator means for the agent. Codes are those of absl::StatusCode,
// which gRPC shares.

#ifndef WORKER_AGENT_SESSION_ERRORS_H_
#define WORKER_AGENT_SESSION_ERRORS_H_

#include "absl/status/status.h"
#include "worker/agent/core/events.h"

namespace vitscale::agent {

// Of Register: FAILED_PRECONDITION is another protocol version, or a newer life of this worker; the
// text tells which.
SessionError RegistrationError(const absl::Status& status);

// Of the stream: who is refused there registers again, and hears the reason then.
SessionError StreamError(const absl::Status& status);

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_SESSION_ERRORS_H_
