// What the command line wants of a coordinator, without gRPC: commands, watching and formatting are
// written and tested against this. control_client_rpc.cc is the one over the wire; tests have a
// fake.

#ifndef CLIENT_CONTROL_CLIENT_H_
#define CLIENT_CONTROL_CLIENT_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vitscale/v1/control_service.pb.h"

namespace vitscale {

// Errors carry the status details of the wire as payloads (StatusToFaults reads the BadRequest).
class ControlClient {
 public:
  virtual ~ControlClient() = default;

  // Unary calls have the deadline given when the client was made.
  virtual absl::StatusOr<v1::SubmitJobResponse> SubmitJob(const v1::SubmitJobRequest& request) = 0;
  virtual absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request) = 0;
  virtual absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) = 0;
  virtual absl::StatusOr<v1::Job> SetIntent(const v1::SetIntentRequest& request) = 0;
  virtual absl::StatusOr<v1::ListStepsResponse> ListSteps(const v1::ListStepsRequest& request) = 0;
  virtual absl::StatusOr<v1::ListEvalsResponse> ListEvals(const v1::ListEvalsRequest& request) = 0;
  virtual absl::StatusOr<v1::ListWorkersResponse> ListWorkers(
      const v1::ListWorkersRequest& request) = 0;
  virtual absl::StatusOr<v1::Worker> UpdateWorker(const v1::UpdateWorkerRequest& request) = 0;
  virtual absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request) = 0;
  virtual absl::StatusOr<v1::CheckpointInfo> PinCheckpoint(
      const v1::PinCheckpointRequest& request) = 0;
  virtual absl::StatusOr<v1::ServerInfo> GetServerInfo() = 0;

  // Streams call `on_message` until it returns false (then OK), the server ends (OK) or something
  // breaks, at the latest after `limit` (DEADLINE_EXCEEDED).
  virtual absl::Status WatchJob(
      const v1::WatchJobRequest& request, absl::Duration limit,
      const std::function<bool(const v1::WatchJobResponse&)>& on_message) = 0;
  virtual absl::Status StreamEvents(const v1::StreamEventsRequest& request, absl::Duration limit,
                                    const std::function<bool(const v1::Event&)>& on_message) = 0;
  virtual absl::Status StreamLogs(const v1::StreamLogsRequest& request, absl::Duration limit,
                                  const std::function<bool(const v1::LogLine&)>& on_message) = 0;
};

}  // namespace vitscale

#endif  // CLIENT_CONTROL_CLIENT_H_
