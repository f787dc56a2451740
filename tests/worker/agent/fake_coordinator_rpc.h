// A coordinator for tests of the agent: a real gRPC server on loopback that does what the test
// says.

#ifndef TESTS_WORKER_AGENT_FAKE_COORDINATOR_RPC_H_
#define TESTS_WORKER_AGENT_FAKE_COORDINATOR_RPC_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "vitscale/v1/worker_service.pb.h"

namespace vitscale::agent {

class FakeCoordinator {
 public:
  struct Options {
    int64_t term = 1;
    double heartbeat_seconds = 0.1, lease_seconds = 5, orphan_window_seconds = 30;
    int port = 0;                  // 0: any
    absl::Status register_status;  // not OK: refuses
    bool acknowledge_records = true;
  };

  FakeCoordinator() : FakeCoordinator(Options()) {}
  explicit FakeCoordinator(Options options);
  ~FakeCoordinator();  // ends all streams at once

  int port() const;
  std::string address() const;  // "127.0.0.1:port"

  // Sent at once and with every answer from now on.
  void Want(const v1::DesiredState& desired);
  // Waits until the newest observed state fulfils `condition`; false after 20 s.
  bool WaitFor(const std::function<bool(const v1::ObservedState&)>& condition);
  // Waits until `condition` holds for all records received so far; false after 20 s.
  bool WaitForRecords(const std::function<bool(const std::vector<v1::SpooledRecord>&)>& condition);

  v1::RegisterRequest registration() const;  // the newest
  int registrations() const;
  int sessions() const;
  std::string credential() const;                  // of the newest session
  v1::ObservedState observed() const;              // the newest
  v1::ObservedState first_observed() const;        // of all sessions
  std::vector<v1::SpooledRecord> records() const;  // without repetitions, by (incarnation, number)
  void SetRegisterStatus(const absl::Status& status);
  // Ends the open stream with `status`.
  void EndSession(const absl::Status& status);

 private:
  class Service;
  class Session;
  struct State;
  std::shared_ptr<State> state_;
  std::unique_ptr<Service> service_;
  struct Server;
  std::unique_ptr<Server> server_;
};

}  // namespace vitscale::agent

#endif  // TESTS_WORKER_AGENT_FAKE_COORDINATOR_RPC_H_
