// Who may call what. Every handler is admitted through CheckRole with the row of its method; the
// present policy allows everybody everything, and a policy that does not has one place to go.

#ifndef SERVER_AUTH_ROLES_H_
#define SERVER_AUTH_ROLES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace vitscale {

enum class Role { kViewer, kSubmitter, kOperator, kWorker };

// Whether a call without a deadline is refused; streams that only end with their client may go
// without.
enum class DeadlineRule { kRequired, kOptional };

struct MethodRow {
  const char* service;  // "vitscale.v1.ControlService"
  const char* method;   // "SubmitJob"
  Role role;
  DeadlineRule deadline;
};
const std::vector<MethodRow>& MethodTable();
// Null for a method that is in no row: it must not be served.
const MethodRow* FindMethod(absl::string_view service, absl::string_view method);

// PERMISSION_DENIED naming principal, method and role. Allows all for now.
absl::Status CheckRole(const std::string& principal, const MethodRow& method);

}  // namespace vitscale

#endif  // SERVER_AUTH_ROLES_H_
