// vitscale.v1.ControlService over the coordinator.

#ifndef SERVER_API_CONTROL_SERVICE_RPC_H_
#define SERVER_API_CONTROL_SERVICE_RPC_H_

#include "server/api/call_rpc.h"
#include "vitscale/v1/control_service.grpc.pb.h"

namespace vitscale {

class ControlServiceRpc : public v1::ControlService::CallbackService {
 public:
  ControlServiceRpc(Coordinator& coordinator, const PeerTable& peers)
      : coordinator_(coordinator), peers_(peers) {}

  using Context = grpc::CallbackServerContext;
  grpc::ServerUnaryReactor* SubmitJob(Context*, const v1::SubmitJobRequest*,
                                      v1::SubmitJobResponse*) override;
  grpc::ServerUnaryReactor* GetJob(Context*, const v1::GetJobRequest*, v1::Job*) override;
  grpc::ServerUnaryReactor* ListJobs(Context*, const v1::ListJobsRequest*,
                                     v1::ListJobsResponse*) override;
  grpc::ServerUnaryReactor* SetIntent(Context*, const v1::SetIntentRequest*, v1::Job*) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(Context*,
                                                           const v1::WatchJobRequest*) override;
  grpc::ServerUnaryReactor* ListSteps(Context*, const v1::ListStepsRequest*,
                                      v1::ListStepsResponse*) override;
  grpc::ServerUnaryReactor* ListEvals(Context*, const v1::ListEvalsRequest*,
                                      v1::ListEvalsResponse*) override;
  grpc::ServerWriteReactor<v1::Event>* StreamEvents(Context*,
                                                    const v1::StreamEventsRequest*) override;
  grpc::ServerWriteReactor<v1::LogLine>* StreamLogs(Context*,
                                                    const v1::StreamLogsRequest*) override;
  grpc::ServerUnaryReactor* ListWorkers(Context*, const v1::ListWorkersRequest*,
                                        v1::ListWorkersResponse*) override;
  grpc::ServerUnaryReactor* UpdateWorker(Context*, const v1::UpdateWorkerRequest*,
                                         v1::Worker*) override;
  grpc::ServerUnaryReactor* ListCheckpoints(Context*, const v1::ListCheckpointsRequest*,
                                            v1::ListCheckpointsResponse*) override;
  grpc::ServerUnaryReactor* PinCheckpoint(Context*, const v1::PinCheckpointRequest*,
                                          v1::CheckpointInfo*) override;
  grpc::ServerUnaryReactor* GetServerInfo(Context*, const v1::GetServerInfoRequest*,
                                          v1::ServerInfo*) override;

 private:
  template <typename Handle>
  grpc::ServerUnaryReactor* Run(const char* method, Context* context, Handle handle);

  Coordinator& coordinator_;
  const PeerTable& peers_;
};

}  // namespace vitscale

#endif  // SERVER_API_CONTROL_SERVICE_RPC_H_
