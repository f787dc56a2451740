#include "client/control_client_rpc.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"
#include "kernels/base/net.h"
#include "kernels/base/status.h"
#include "proto/rpc/channel_rpc.h"
#include "vitscale/v1/control_service.grpc.pb.h"

namespace vitscale {
namespace {

// UNAVAILABLE only: everything else has been seen by the coordinator.
constexpr char kServiceConfig[] = R"json({"methodConfig": [{
  "name": [{"service": "vitscale.v1.ControlService"}],
  "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "5s", "backoffMultiplier": 2,
                  "retryableStatusCodes": ["UNAVAILABLE"]}}]})json";

// "failed to connect to all addresses; last error: UNKNOWN: ipv4:…: Connection refused" in few
// words.
std::string WhyUnavailable(const std::string& message) {
  if (!absl::StartsWith(message, "failed to connect")) return message;
  const size_t reason = message.rfind(": ");
  return absl::StrCat(reason == std::string::npos ? message : message.substr(reason + 2),
                      " (start vitscaled, or say where it is with --address)");
}

absl::Status FromWire(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  std::string message = status.error_message();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    // Somebody listens, nobody speaks: the process is stopped, or is no coordinator.
    message = absl::StrContains(message, "SETTINGS frame")
                  ? absl::StrCat("the coordinator at ", address,
                                 " does not answer: it takes connections and then says nothing")
                  : absl::StrCat("no coordinator at ", address, ": ", WhyUnavailable(message));
  } else if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    message = absl::StrCat("no answer from ", address, " in time");
  }
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), message);
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return result;
}

class RpcClient : public ControlClient {
 public:
  RpcClient(const std::string& address, const Address& parsed, absl::Duration timeout)
      : address_(address),
        timeout_(timeout),
        stub_(v1::ControlService::NewStub(MakeChannel(parsed, {2'000, kServiceConfig}))) {}

  absl::StatusOr<v1::SubmitJobResponse> SubmitJob(const v1::SubmitJobRequest& r) override {
    return Call<v1::SubmitJobResponse>(&v1::ControlService::Stub::SubmitJob, r);
  }
  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& r) override {
    return Call<v1::Job>(&v1::ControlService::Stub::GetJob, r);
  }
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& r) override {
    return Call<v1::ListJobsResponse>(&v1::ControlService::Stub::ListJobs, r);
  }
  absl::StatusOr<v1::Job> SetIntent(const v1::SetIntentRequest& r) override {
    return Call<v1::Job>(&v1::ControlService::Stub::SetIntent, r);
  }
  absl::StatusOr<v1::ListStepsResponse> ListSteps(const v1::ListStepsRequest& r) override {
    return Call<v1::ListStepsResponse>(&v1::ControlService::Stub::ListSteps, r);
  }
  absl::StatusOr<v1::ListEvalsResponse> ListEvals(const v1::ListEvalsRequest& r) override {
    return Call<v1::ListEvalsResponse>(&v1::ControlService::Stub::ListEvals, r);
  }
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest& r) override {
    return Call<v1::ListWorkersResponse>(&v1::ControlService::Stub::ListWorkers, r);
  }
  absl::StatusOr<v1::Worker> UpdateWorker(const v1::UpdateWorkerRequest& r) override {
    return Call<v1::Worker>(&v1::ControlService::Stub::UpdateWorker, r);
  }
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& r) override {
    return Call<v1::ListCheckpointsResponse>(&v1::ControlService::Stub::ListCheckpoints, r);
  }
  absl::StatusOr<v1::CheckpointInfo> PinCheckpoint(const v1::PinCheckpointRequest& r) override {
    return Call<v1::CheckpointInfo>(&v1::ControlService::Stub::PinCheckpoint, r);
  }
  absl::StatusOr<v1::ServerInfo> GetServerInfo() override {
    return Call<v1::ServerInfo>(&v1::ControlService::Stub::GetServerInfo,
                                v1::GetServerInfoRequest());
  }
  absl::Status WatchJob(
      const v1::WatchJobRequest& r, absl::Duration limit,
      const std::function<bool(const v1::WatchJobResponse&)>& on_message) override {
    return Stream<v1::WatchJobResponse>(&v1::ControlService::Stub::WatchJob, r, limit, on_message);
  }
  absl::Status StreamEvents(const v1::StreamEventsRequest& r, absl::Duration limit,
                            const std::function<bool(const v1::Event&)>& on_message) override {
    return Stream<v1::Event>(&v1::ControlService::Stub::StreamEvents, r, limit, on_message);
  }
  absl::Status StreamLogs(const v1::StreamLogsRequest& r, absl::Duration limit,
                          const std::function<bool(const v1::LogLine&)>& on_message) override {
    return Stream<v1::LogLine>(&v1::ControlService::Stub::StreamLogs, r, limit, on_message);
  }

 private:
  // A stream without a limit of the caller ends after a day and is resumed: no call is without a
  // deadline.
  static constexpr absl::Duration kStreamMax = absl::Hours(24);

  static std::chrono::system_clock::time_point In(absl::Duration timeout) {
    return std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout);
  }

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(grpc::Status (v1::ControlService::Stub::*method)(
                                    grpc::ClientContext*, const Request&, Response*),
                                const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(In(timeout_));
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    VITSCALE_RETURN_IF_ERROR(FromWire(status, address_));
    return response;
  }

  template <typename Message, typename Request>
  absl::Status Stream(std::unique_ptr<grpc::ClientReader<Message>> (
                          v1::ControlService::Stub::*method)(grpc::ClientContext*, const Request&),
                      const Request& request, absl::Duration limit,
                      const std::function<bool(const Message&)>& on_message) {
    grpc::ClientContext context;
    context.set_deadline(In(std::min(limit, kStreamMax)));
    const auto reader = (stub_.get()->*method)(&context, request);
    Message message;
    while (reader->Read(&message)) {
      if (!on_message(message)) {
        context.TryCancel();
        (void)reader->Finish();
        return absl::OkStatus();
      }
    }
    return FromWire(reader->Finish(), address_);
  }

  const std::string address_;
  const absl::Duration timeout_;
  const std::unique_ptr<v1::ControlService::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControlClient>> ConnectToCoordinator(const std::string& address,
                                                                    absl::Duration call_timeout) {
  VITSCALE_ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  return std::make_unique<RpcClient>(address, parsed, call_timeout);
}

}  // namespace vitscale
