#include "worker/agent/session_errors.h"

#include "absl/strings/match.h"

namespace vitscale::agent {

SessionError RegistrationError(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return SessionError::kConfiguration;
    case absl::StatusCode::kFailedPrecondition:
      return absl::StrContains(status.message(), "protocol") ? SessionError::kConfiguration
                                                             : SessionError::kFenced;
    default:
      return SessionError::kUnavailable;
  }
}

SessionError StreamError(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAborted:
      return SessionError::kRefused;
    default:
      return SessionError::kUnavailable;
  }
}

}  // namespace vitscale::agent
