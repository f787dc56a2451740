#include "server/api/control_service_rpc.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/api/watch_rpc.h"

namespace vitscale {
namespace {

constexpr char kService[] = "vitscale.v1.ControlService";
constexpr int kStepsDefault = 1000;
constexpr int kStepsMax = 10000;
constexpr int kWorkersMax = 1000;
constexpr size_t kRequestIdMax = 128;

absl::Status CheckRequestId(const std::string& id) {
  if (id.size() <= kRequestIdMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("request_id has ", id.size(), " characters, wanted at most ", kRequestIdMax));
}

absl::Status CheckIntent(v1::Intent intent) {
  if (intent == v1::INTENT_RUN || intent == v1::INTENT_PAUSE || intent == v1::INTENT_CANCEL ||
      intent == v1::INTENT_KILL) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("intent was ", IntentName(intent), ", wanted run, pause, cancel or kill"));
}

// Copies an answer or its error to the caller.
template <typename T, typename Finish>
auto Into(T* response, Finish finish) {
  return [response, finish](absl::StatusOr<T> result) {
    if (result.ok()) *response = *std::move(result);
    finish(result.status());
  };
}

}  // namespace

template <typename Handle>
grpc::ServerUnaryReactor* ControlServiceRpc::Run(const char* method, Context* context,
                                                 Handle handle) {
  return Unary(coordinator_, peers_, kService, method, context, std::move(handle));
}

grpc::ServerUnaryReactor* ControlServiceRpc::SubmitJob(Context* context,
                                                       const v1::SubmitJobRequest* request,
                                                       v1::SubmitJobResponse* response) {
  return Run("SubmitJob", context, [&](const AdmittedCall& call, auto finish) {
    if (const absl::Status status = CheckRequestId(request->request_id()); !status.ok())
      return finish(status);
    coordinator_.Submit(call.CallerOf(*request), request->spec(), request->validate_only(),
                        [response, finish](absl::StatusOr<v1::Job> job) {
                          if (job.ok()) *response->mutable_job() = *std::move(job);
                          finish(job.status());
                        });
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::GetJob(Context* context,
                                                    const v1::GetJobRequest* request,
                                                    v1::Job* response) {
  return Run("GetJob", context, [&](const AdmittedCall&, auto finish) {
    Into(response, finish)(coordinator_.GetJob(request->job_id()));
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::ListJobs(Context* context,
                                                      const v1::ListJobsRequest* request,
                                                      v1::ListJobsResponse* response) {
  return Run("ListJobs", context, [&](const AdmittedCall&, auto finish) {
    Into(response, finish)(coordinator_.ListJobs(*request));
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::SetIntent(Context* context,
                                                       const v1::SetIntentRequest* request,
                                                       v1::Job* response) {
  return Run("SetIntent", context, [&](const AdmittedCall& call, auto finish) {
    absl::Status status = CheckRequestId(request->request_id());
    status.Update(CheckIntent(request->intent()));
    if (!status.ok()) return finish(status);
    coordinator_.SetIntent(call.CallerOf(*request), *request, Into(response, finish));
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* ControlServiceRpc::WatchJob(
    Context* context, const v1::WatchJobRequest* request) {
  return RunWatchJob(coordinator_,
                     AdmittedCall(coordinator_, peers_, kService, "WatchJob", context), *request);
}

grpc::ServerUnaryReactor* ControlServiceRpc::ListSteps(Context* context,
                                                       const v1::ListStepsRequest* request,
                                                       v1::ListStepsResponse* response) {
  return Run("ListSteps", context, [&](const AdmittedCall&, auto finish) {
    if (request->page_size() < 0 || request->page_size() > kStepsMax) {
      return finish(absl::InvalidArgumentError(
          absl::StrCat("page_size was ", request->page_size(), ", wanted 1 to ", kStepsMax)));
    }
    const int page = request->page_size() == 0 ? kStepsDefault : request->page_size();
    const auto job = coordinator_.directory().Find(request->job_id());
    if (!job.ok()) return finish(job.status());
    auto steps = coordinator_.steps().Steps((*job)->job().id(), request->after_step(), page + 1);
    if (!steps.ok()) return finish(steps.status());
    response->set_more(static_cast<int>(steps->size()) > page);
    for (int i = 0; i < std::min<int>(page, static_cast<int>(steps->size())); ++i) {
      *response->add_steps() = std::move((*steps)[i]);
    }
    finish(absl::OkStatus());
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::ListEvals(Context* context,
                                                       const v1::ListEvalsRequest* request,
                                                       v1::ListEvalsResponse* response) {
  return Run("ListEvals", context, [&](const AdmittedCall&, auto finish) {
    const auto job = coordinator_.directory().Find(request->job_id());
    if (!job.ok()) return finish(job.status());
    auto evals = coordinator_.steps().Evals((*job)->job().id());
    if (!evals.ok()) return finish(evals.status());
    for (v1::EvalRecord& eval : *evals) *response->add_evals() = std::move(eval);
    finish(absl::OkStatus());
  });
}

grpc::ServerWriteReactor<v1::Event>* ControlServiceRpc::StreamEvents(
    Context* context, const v1::StreamEventsRequest* request) {
  return RunStreamEvents(coordinator_,
                         AdmittedCall(coordinator_, peers_, kService, "StreamEvents", context),
                         *request);
}

grpc::ServerWriteReactor<v1::LogLine>* ControlServiceRpc::StreamLogs(
    Context* context, const v1::StreamLogsRequest* request) {
  return RunStreamLogs(
      coordinator_, AdmittedCall(coordinator_, peers_, kService, "StreamLogs", context), *request);
}

grpc::ServerUnaryReactor* ControlServiceRpc::ListWorkers(Context* context,
                                                         const v1::ListWorkersRequest* request,
                                                         v1::ListWorkersResponse* response) {
  return Run("ListWorkers", context, [&](const AdmittedCall&, auto finish) {
    if (request->page_size() < 0 || request->page_size() > kWorkersMax) {
      return finish(absl::InvalidArgumentError(
          absl::StrCat("page_size was ", request->page_size(), ", wanted 1 to ", kWorkersMax)));
    }
    const int page = request->page_size() == 0 ? kWorkersMax : request->page_size();
    coordinator_.ListWorkers([response, finish, page, after = request->page_token()](
                                 absl::StatusOr<std::vector<v1::Worker>> workers) {
      if (!workers.ok()) return finish(workers.status());
      for (v1::Worker& worker : *workers) {  // by id
        if (!after.empty() && worker.id() <= after) continue;
        if (response->workers_size() == page) {
          response->set_next_page_token(response->workers(page - 1).id());
          break;
        }
        *response->add_workers() = std::move(worker);
      }
      finish(absl::OkStatus());
    });
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::UpdateWorker(Context* context,
                                                          const v1::UpdateWorkerRequest* request,
                                                          v1::Worker* response) {
  return Run("UpdateWorker", context, [&](const AdmittedCall& call, auto finish) {
    absl::Status status = CheckRequestId(request->request_id());
    if (request->action_case() == v1::UpdateWorkerRequest::ACTION_NOT_SET) {
      status.Update(absl::InvalidArgumentError("action is missing, wanted release or drain"));
    }
    if (!status.ok()) return finish(status);
    coordinator_.UpdateWorker(call.CallerOf(*request), *request, Into(response, finish));
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::ListCheckpoints(
    Context* context, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  return Run("ListCheckpoints", context, [&](const AdmittedCall&, auto finish) {
    const auto job = coordinator_.directory().Find(request->job_id());
    if (!job.ok()) return finish(job.status());
    auto infos = coordinator_.control().Checkpoints((*job)->job().id());
    if (!infos.ok()) return finish(infos.status());
    for (v1::CheckpointInfo& info : *infos) *response->add_checkpoints() = std::move(info);
    finish(absl::OkStatus());
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::PinCheckpoint(Context* context,
                                                           const v1::PinCheckpointRequest* request,
                                                           v1::CheckpointInfo* response) {
  return Run("PinCheckpoint", context, [&](const AdmittedCall& call, auto finish) {
    if (const absl::Status status = CheckRequestId(request->request_id()); !status.ok())
      return finish(status);
    coordinator_.PinCheckpoint(call.CallerOf(*request), *request, Into(response, finish));
  });
}

grpc::ServerUnaryReactor* ControlServiceRpc::GetServerInfo(Context* context,
                                                           const v1::GetServerInfoRequest*,
                                                           v1::ServerInfo* response) {
  return Run("GetServerInfo", context, [&](const AdmittedCall&, auto finish) {
    *response = coordinator_.Info();
    finish(absl::OkStatus());
  });
}

}  // namespace vitscale
