// Everything of vitscaled but the process: opens the state, serves, stops in order.

#ifndef SERVER_VITSCALED_DAEMON_H_
#define SERVER_VITSCALED_DAEMON_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "server/api/coordinator.h"
#include "server/api/rpc_server.h"
#include "server/local_workers/local_workers.h"
#include "server/metrics/metrics_server.h"
#include "server/store/state_directory.h"
#include "server/vitscaled/flags.h"

namespace vitscale {

class Daemon {
 public:
  // Serves when it returns; the ready file is written. Errors: one sentence, nothing is left
  // behind.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const ServerFlags& flags);
  ~Daemon();

  // Drains and stops local workers (SIGKILL after `grace`), then the server, then the stores.
  void Stop(absl::Duration grace);

  HostPort address() const { return server_->address(); }
  HostPort metrics_address() const { return metrics_->address(); }
  Coordinator& coordinator() { return *coordinator_; }

 private:
  explicit Daemon(const ServerFlags& flags) : flags_(flags) {}
  absl::Status Open();
  absl::Status Serve();
  void StartLocalWorkers();
  absl::Status WriteReadyFile() const;

  const ServerFlags flags_;
  std::unique_ptr<StateDirectory> state_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<MetricsServer> metrics_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<LocalWorkers> local_;
  bool ready_ = false;  // the ready file is ours
  bool stopped_ = false;
};

}  // namespace vitscale

#endif  // SERVER_VITSCALED_DAEMON_H_
