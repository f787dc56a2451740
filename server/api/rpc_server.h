// The listening side: one TCP address and one Unix socket, both services, health and reflection.

#ifndef SERVER_API_RPC_SERVER_H_
#define SERVER_API_RPC_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/net.h"
#include "server/api/coordinator.h"

namespace vitscale {

struct RpcServerOptions {
  std::string unix_path;  // empty: none. Its folder is made (0700); callers on it are known by
                          // their user id
  HostPort listen;        // port 0: any
  bool insecure = false;  // allow an address that others reach
  bool reflection = true;
};

class RpcServer {
 public:
  // Binds and serves. Errors: ALREADY_EXISTS naming the address that is in use; FAILED_PRECONDITION
  // for an address that is not loopback without `insecure`.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options,
                                                          Coordinator& coordinator);
  virtual ~RpcServer() = default;

  virtual HostPort address() const = 0;
  // What health checks say from now on.
  virtual void SetServing(bool serving) = 0;
  // No new calls; those under way are cancelled after `grace`. Removes the Unix socket.
  virtual void Shutdown(absl::Duration grace) = 0;
};

// FAILED_PRECONDITION unless `address` is loopback or `insecure` is set. `what`: "--listen".
absl::Status CheckExposure(const std::string& what, const HostPort& address, bool insecure);

}  // namespace vitscale

#endif  // SERVER_API_RPC_SERVER_H_
