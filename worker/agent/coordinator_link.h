// The agent's connection to the coordinator, as its loop sees it. Implemented with gRPC in
// session_rpc.h, by fakes in tests.

#ifndef WORKER_AGENT_COORDINATOR_LINK_H_
#define WORKER_AGENT_COORDINATOR_LINK_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "vitscale/v1/worker_service.pb.h"
#include "worker/agent/core/events.h"

namespace vitscale::agent {

// What comes back, from any thread.
struct CoordinatorSink {
  std::function<void(Event)> event;  // Registered, SessionFailed, CoordinatorSays
  std::function<void()> can_send;    // a write has ended: CanSend is true again
};

class CoordinatorLink {
 public:
  virtual ~CoordinatorLink() = default;
  // Always answered with Registered or SessionFailed, within 10 s.
  virtual void Register(int64_t session) = 0;
  // Opens the stream; its end is told as SessionFailed, unless Close was called.
  virtual void Open(int64_t session, const std::string& credential) = 0;
  virtual void Close(int64_t session) = 0;
  // One message at a time; states are whole, so the newest one is enough when the stream is slow.
  virtual bool CanSend(int64_t session) = 0;
  virtual void Send(int64_t session, const v1::AgentMessage& message) = 0;
  // Ends the stream in good order and waits up to `timeout` for the coordinator to see it.
  virtual void Finish(absl::Duration timeout) = 0;
};

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_COORDINATOR_LINK_H_
