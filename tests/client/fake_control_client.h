// A coordinator of a few maps: enough for every command, and streams that break where a test says
// so.

#ifndef TESTS_CLIENT_FAKE_CONTROL_CLIENT_H_
#define TESTS_CLIENT_FAKE_CONTROL_CLIENT_H_

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/control_client.h"

namespace vitscale {

// What a test sets up and looks at; outlives the clients that commands make.
struct FakeCoordinator {
  absl::Status down = absl::OkStatus();  // not OK: every call fails with it
  absl::Status submit = absl::OkStatus();
  std::map<std::string, v1::Job> jobs;
  std::vector<v1::StepRecord> steps;
  std::vector<v1::EvalRecord> evals;
  std::vector<v1::Event> events;
  std::vector<v1::LogLine> logs;
  std::vector<v1::Worker> workers;
  std::vector<v1::CheckpointInfo> checkpoints;

  // Each watch or follow takes one: after so many records the stream ends with that status.
  struct Break {
    int records;
    absl::Status status;
  };
  std::vector<Break> breaks;
  std::function<void(absl::Duration limit)> on_watch;  // before a watch breaks or answers
  int chunk = 3;   // steps in one message of a watch
  int repeat = 0;  // records sent again after a resume, as a careless coordinator might

  std::vector<v1::SubmitJobRequest> submitted;
  std::vector<v1::SetIntentRequest> intents;
  std::vector<v1::UpdateWorkerRequest> updates;
  std::vector<v1::PinCheckpointRequest> pins;
  std::vector<v1::WatchJobRequest> watches;
  std::vector<absl::Duration> limits;
};

class FakeControlClient : public ControlClient {
 public:
  explicit FakeControlClient(FakeCoordinator& c) : c_(c) {}

  absl::StatusOr<v1::SubmitJobResponse> SubmitJob(const v1::SubmitJobRequest& request) override {
    if (!c_.down.ok()) return c_.down;
    c_.submitted.push_back(request);
    if (!c_.submit.ok()) return c_.submit;
    v1::SubmitJobResponse response;
    *response.mutable_job() = Job("job1");
    *response.mutable_job()->mutable_spec() = request.spec();
    return response;
  }
  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request) override {
    return Find(request.job_id());
  }
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) override {
    if (!c_.down.ok()) return c_.down;
    v1::ListJobsResponse response;
    for (const auto& [id, job] : c_.jobs) {
      const bool wanted =
          request.states().empty() || std::find(request.states().begin(), request.states().end(),
                                                job.state()) != request.states().end();
      if (wanted && id > request.page_token() && response.jobs_size() < request.page_size())
        *response.add_jobs() = job;
    }
    if (response.jobs_size() > 0 && response.jobs().rbegin()->id() < c_.jobs.rbegin()->first) {
      response.set_next_page_token(response.jobs().rbegin()->id());
    }
    return response;
  }
  absl::StatusOr<v1::Job> SetIntent(const v1::SetIntentRequest& request) override {
    c_.intents.push_back(request);
    auto job = Find(request.job_id());
    if (job.ok()) job->set_intent(request.intent());
    return job;
  }
  absl::StatusOr<v1::ListStepsResponse> ListSteps(const v1::ListStepsRequest& request) override {
    v1::ListStepsResponse response;
    for (const v1::StepRecord& step : c_.steps) {
      if (step.step() <= request.after_step()) continue;
      if (response.steps_size() == std::min(request.page_size(), 7)) {
        response.set_more(true);
        break;
      }
      *response.add_steps() = step;
    }
    return response;
  }
  absl::StatusOr<v1::ListEvalsResponse> ListEvals(const v1::ListEvalsRequest&) override {
    v1::ListEvalsResponse response;
    for (const auto& eval : c_.evals) *response.add_evals() = eval;
    return response;
  }
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest&) override {
    v1::ListWorkersResponse response;
    for (const auto& worker : c_.workers) *response.add_workers() = worker;
    return response;
  }
  absl::StatusOr<v1::Worker> UpdateWorker(const v1::UpdateWorkerRequest& request) override {
    c_.updates.push_back(request);
    v1::Worker worker;
    worker.set_id(request.worker_id());
    worker.set_state(request.drain() ? v1::WORKER_STATE_DRAINING : v1::WORKER_STATE_IDLE);
    return worker;
  }
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest&) override {
    v1::ListCheckpointsResponse response;
    for (const auto& checkpoint : c_.checkpoints) *response.add_checkpoints() = checkpoint;
    return response;
  }
  absl::StatusOr<v1::CheckpointInfo> PinCheckpoint(
      const v1::PinCheckpointRequest& request) override {
    c_.pins.push_back(request);
    v1::CheckpointInfo info;
    info.set_id(request.checkpoint_id());
    info.set_pinned(request.pinned());
    return info;
  }
  absl::StatusOr<v1::ServerInfo> GetServerInfo() override {
    if (!c_.down.ok()) return c_.down;
    v1::ServerInfo info;
    info.set_version("9.9.9");
    info.set_term(4);
    info.set_writable(true);
    return info;
  }

  absl::Status WatchJob(
      const v1::WatchJobRequest& request, absl::Duration limit,
      const std::function<bool(const v1::WatchJobResponse&)>& on_message) override {
    c_.watches.push_back(request);
    c_.limits.push_back(limit);
    if (c_.on_watch) c_.on_watch(limit);
    auto job = Find(request.job_id());
    if (!job.ok()) return job.status();
    BeginStream();
    v1::WatchJobResponse first;
    *first.mutable_job() = *job;
    for (const auto& eval : c_.evals) *first.add_evals() = eval;
    for (const auto& event : c_.events) {
      if (request.after_event() >= 0 && event.sequence() > request.after_event() - c_.repeat)
        *first.add_events() = event;
    }
    if (!on_message(first)) return absl::OkStatus();
    v1::WatchJobResponse next;
    for (const auto& step : c_.steps) {
      if (request.after_step() < 0 || step.step() <= request.after_step() - c_.repeat) continue;
      if (Broken()) return broken_;
      *next.add_steps() = step;
      if (next.steps_size() < c_.chunk) continue;
      if (!on_message(next)) return absl::OkStatus();
      next.Clear();
    }
    if (Broken()) return broken_;
    *next.mutable_job() = *job;
    next.set_done(true);
    on_message(next);
    return absl::OkStatus();
  }
  absl::Status StreamEvents(const v1::StreamEventsRequest& request, absl::Duration,
                            const std::function<bool(const v1::Event&)>& on_message) override {
    BeginStream();
    for (const auto& event : c_.events) {
      if (event.sequence() <= request.after() - c_.repeat) continue;
      if (Broken()) return broken_;
      if (!on_message(event)) break;
    }
    return c_.down;
  }
  absl::Status StreamLogs(const v1::StreamLogsRequest& request, absl::Duration,
                          const std::function<bool(const v1::LogLine&)>& on_message) override {
    BeginStream();
    for (const auto& line : c_.logs) {
      if (line.sequence() <= request.after() - c_.repeat) continue;
      if (request.rank() >= 0 && line.rank() != request.rank()) continue;
      if (Broken()) return broken_;
      if (!on_message(line)) break;
    }
    return absl::OkStatus();
  }

 private:
  v1::Job Job(const std::string& id) const {
    const auto it = c_.jobs.find(id);
    if (it != c_.jobs.end()) return it->second;
    v1::Job job;
    job.set_id(id);
    job.set_state(v1::JOB_STATE_QUEUED);
    return job;
  }
  absl::StatusOr<v1::Job> Find(const std::string& name) const {
    if (!c_.down.ok()) return c_.down;
    for (const auto& [id, job] : c_.jobs) {
      if (id == name || job.spec().name() == name) return job;
    }
    return absl::NotFoundError(absl::StrCat("no job \"", name, "\""));
  }
  void BeginStream() {
    left_ = -1;
    if (c_.breaks.empty()) return;
    left_ = c_.breaks.front().records;
    broken_ = c_.breaks.front().status;
    c_.breaks.erase(c_.breaks.begin());
  }
  bool Broken() { return left_ >= 0 && left_-- == 0; }

  FakeCoordinator& c_;
  int left_ = -1;
  absl::Status broken_;
};

}  // namespace vitscale

#endif  // TESTS_CLIENT_FAKE_CONTROL_CLIENT_H_
