// The ControlClient over gRPC.

#ifndef CLIENT_CONTROL_CLIENT_RPC_H_
#define CLIENT_CONTROL_CLIENT_RPC_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/control_client.h"

namespace vitscale {

// Does not connect yet: the first call does, and says UNAVAILABLE with the address if nobody is
// there. Retries are the channel's (service config): UNAVAILABLE only, 0.1 s to 5 s. Every mutation
// carries a request id, so that a retry does nothing twice. Errors: INVALID_ARGUMENT for an address
// that is neither "unix:/path" nor "host:port".
absl::StatusOr<std::unique_ptr<ControlClient>> ConnectToCoordinator(const std::string& address,
                                                                    absl::Duration call_timeout);

}  // namespace vitscale

#endif  // CLIENT_CONTROL_CLIENT_RPC_H_
