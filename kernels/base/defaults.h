// Where things are unless a flag says otherwise: the one table, repeated in the README.
//
//   what          as root                      as a user
//   Unix socket   /run/vitscale/vitscaled.sock  $XDG_RUNTIME_DIR/vitscale/vitscaled.sock
//   device locks  /run/vitscale/locks/          $XDG_RUNTIME_DIR/vitscale/locks/
//   state         /var/lib/vitscale/            $XDG_STATE_HOME/vitscale/ ($HOME/.local/state/vitscale/)
//   gRPC          127.0.0.1:7480
//   metrics       127.0.0.1:7481
//
// Without XDG_RUNTIME_DIR a user's sockets and locks lie in /tmp/vitscale-<uid>/. The folders are not created
// here.

#ifndef KERNELS_BASE_DEFAULTS_H_
#define KERNELS_BASE_DEFAULTS_H_

#include <string>

namespace vitscale {

inline constexpr int kDefaultGrpcPort = 7480;
inline constexpr int kDefaultMetricsPort = 7481;

std::string DefaultRuntimeDirectory();  // of sockets and locks
std::string DefaultSocketPath();
std::string DefaultLockDirectory();
std::string DefaultStateDirectory();

}  // namespace vitscale

#endif  // KERNELS_BASE_DEFAULTS_H_
