// CoordinatorLink over gRPC: WorkerService.Register, then one bidirectional stream (callback API).

#ifndef WORKER_AGENT_SESSION_RPC_H_
#define WORKER_AGENT_SESSION_RPC_H_

#include <memory>

#include "kernels/base/net.h"
#include "vitscale/v1/worker_service.pb.h"
#include "worker/agent/coordinator_link.h"

namespace vitscale::agent {

// `registration` is sent as it is with every Register. The destructor cancels what is open and
// waits for it.
std::unique_ptr<CoordinatorLink> ConnectCoordinator(const Address& address,
                                                    const v1::RegisterRequest& registration,
                                                    CoordinatorSink sink);

}  // namespace vitscale::agent

#endif  // WORKER_AGENT_SESSION_RPC_H_
