// What every call passes on its way in and out: principal, role, deadline; status with details,
// metrics.

#ifndef SERVER_API_RPC_GATE_H_
#define SERVER_API_RPC_GATE_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/auth/roles.h"

namespace vitscale {

// Whose connection a descriptor is: filled by the accept loop of the Unix socket. gRPC C++ exposes
// no peer credentials; it names such a peer "fd:<n>". A descriptor's number is used again only by a
// later connection, whose entry then replaces the former one's.
class PeerTable {
 public:
  void Set(int fd, unsigned uid);
  // "uid:1000" for "fd:7"; "anonymous" for every other peer.
  std::string PrincipalOf(absl::string_view peer) const;

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<int, unsigned> uids_ ABSL_GUARDED_BY(mutex_);
};

// Row of the method, if the call may go on: INVALID_ARGUMENT without a deadline where one is
// required, PERMISSION_DENIED by role, UNIMPLEMENTED for a method that is in no row. `deadline` is
// infinite where none was set.
absl::StatusOr<const MethodRow*> AdmitCall(const std::string& principal, absl::string_view service,
                                           absl::string_view method, absl::Time deadline);

// The serialised google.rpc.Status that goes with an error: its payloads, and an ErrorInfo of
// domain "vitscale".
std::string StatusDetails(const absl::Status& status);

// "NOT_FOUND": as metrics and ErrorInfo name it.
std::string CodeName(absl::StatusCode code);

}  // namespace vitscale

#endif  // SERVER_API_RPC_GATE_H_
