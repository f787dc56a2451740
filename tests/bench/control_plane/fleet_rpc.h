// A fleet of simulated workers: real registrations and real heart-beating streams, no trainers.

#ifndef TESTS_BENCH_CONTROL_PLANE_FLEET_RPC_H_
#define TESTS_BENCH_CONTROL_PLANE_FLEET_RPC_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "kernels/base/net.h"

namespace vitscale {

class SimulatedWorker;

class Fleet {
 public:
  // Registers `count` CPU workers, each on a connection of its own, and beats every `heartbeat`
  // from then on, spread evenly over the interval.
  static absl::StatusOr<std::unique_ptr<Fleet>> Start(const Address& coordinator, int count,
                                                      absl::Duration heartbeat);
  ~Fleet();

  int64_t beats_acknowledged() const;  // by the coordinator, of all workers
  int alive() const;                   // streams that still stand

 private:
  Fleet() = default;
  void Beat(absl::Duration heartbeat);

  std::vector<std::unique_ptr<SimulatedWorker>> workers_;
  absl::Notification stop_;
  std::thread beater_;
};

}  // namespace vitscale

#endif  // TESTS_BENCH_CONTROL_PLANE_FLEET_RPC_H_
