// vitscale.v1.WorkerService over the coordinator: registration, and one stream per agent.

#ifndef SERVER_API_WORKER_SERVICE_RPC_H_
#define SERVER_API_WORKER_SERVICE_RPC_H_

#include "server/api/call_rpc.h"
#include "vitscale/v1/worker_service.grpc.pb.h"

namespace vitscale {

class WorkerServiceRpc : public v1::WorkerService::CallbackService {
 public:
  WorkerServiceRpc(Coordinator& coordinator, const PeerTable& peers)
      : coordinator_(coordinator), peers_(peers) {}

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override;
  // Metadata "vitscale-credential": what Register gave.
  grpc::ServerBidiReactor<v1::AgentMessage, v1::CoordinatorMessage>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  Coordinator& coordinator_;
  const PeerTable& peers_;
};

}  // namespace vitscale

#endif  // SERVER_API_WORKER_SERVICE_RPC_H_
