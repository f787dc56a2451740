#include "server/api/watch_rpc.h"

#include <algorithm>
#include <map>

#include "kernels/base/status.h"
#include "server/core/convert.h"

namespace vitscale {
namespace {

constexpr int kStepsPerMessage = 1000;
constexpr int kEventsPerRead = 500;
constexpr int kLinesPerRead = 1000;
constexpr absl::Duration kHeartbeat = absl::Seconds(15);
// The last records of a run arrive after its verdict; this is how long they are waited for.
constexpr absl::Duration kSettle = absl::Milliseconds(1500);
constexpr absl::Duration kSettleMax = absl::Seconds(6);

// Every record of a job that has done all it was asked for has come.
bool Complete(const v1::Job& job, int64_t last_step) {
  const bool evaluated = job.spec().kind() != v1::JOB_KIND_EVALUATE ||
                         job.last_evals_size() >= job.spec().evals_size();
  return evaluated && std::max(last_step, job.first_step()) >= job.step();
}

// The job has ended long enough ago that its agents have handed in everything.
bool Settled(const v1::Job& job, int64_t last_step, absl::Time now) {
  if (!IsTerminal(job.state())) return false;
  const absl::Duration since = now - FromProto(job.end_time());
  const bool complete = job.state() != v1::JOB_STATE_SUCCEEDED || Complete(job, last_step);
  // A negative age: the wall clock was set back since.
  return since < absl::ZeroDuration() || since >= (complete ? kSettle : kSettleMax);
}

class WatchJobReactor : public WatchReactor<v1::WatchJobResponse> {
 public:
  WatchJobReactor(Coordinator& coordinator, AdmittedCall call, const v1::WatchJobRequest& request)
      : WatchReactor(coordinator, std::move(call), ""), request_(request) {}

 private:
  absl::Status Begin() {
    begun_ = true;
    VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, coordinator_.GetJob(request_.job_id()));
    SetJob(job.id());
    after_event_ = request_.after_event();
    if (after_event_ < 0) {
      VITSCALE_ASSIGN_OR_RETURN(after_event_, coordinator_.control().LastEvent());
    }
    after_step_ = request_.after_step();
    if (after_step_ < 0) {
      VITSCALE_ASSIGN_OR_RETURN(after_step_, coordinator_.steps().LastStep(job.id()));
    }
    return absl::OkStatus();
  }

  absl::Status Gather(std::deque<v1::WatchJobResponse>* messages, bool* done) override {
    if (!begun_) VITSCALE_RETURN_IF_ERROR(Begin());
    const absl::Time now = coordinator_.clock().Now();
    // Read first: whatever is newer comes with the next message.
    VITSCALE_ASSIGN_OR_RETURN(v1::Job job, coordinator_.GetJob(job_id()));
    v1::WatchJobResponse message;
    VITSCALE_ASSIGN_OR_RETURN(const auto steps,
                              coordinator_.steps().Steps(job_id(), after_step_, kStepsPerMessage));
    VITSCALE_ASSIGN_OR_RETURN(
        const auto events, coordinator_.control().Events(after_event_, job_id(), kEventsPerRead));
    for (const v1::StepRecord& step : steps) {
      *message.add_steps() = step;
      after_step_ = step.step();
    }
    for (const v1::Event& event : events) {
      *message.add_events() = event;
      after_event_ = event.sequence();
    }
    VITSCALE_RETURN_IF_ERROR(AddEvals(&message));
    const bool news = message.steps_size() + message.events_size() + message.evals_size() > 0;
    const bool changed = job.etag() != sent_etag_ || job.step() != sent_step_;
    *done = !news && Settled(job, after_step_, now);
    if (changed || news || *done) {
      sent_etag_ = job.etag();
      sent_step_ = job.step();
      *message.mutable_job() = std::move(job);
      message.set_done(*done);
      messages->push_back(std::move(message));
      last_sent_ = now;
    } else if (now - last_sent_ >= kHeartbeat) {
      messages->emplace_back();
      last_sent_ = now;
    }
    return absl::OkStatus();
  }

  absl::Status AddEvals(v1::WatchJobResponse* message) {
    VITSCALE_ASSIGN_OR_RETURN(const auto evals, coordinator_.steps().Evals(job_id()));
    for (const v1::EvalRecord& eval : evals) {
      const auto [it, fresh] =
          sent_evals_.try_emplace({eval.name(), eval.step()}, eval.generation());
      if (!fresh && it->second >= eval.generation()) continue;
      it->second = eval.generation();
      *message->add_evals() = eval;
    }
    return absl::OkStatus();
  }

  const v1::WatchJobRequest request_;
  bool begun_ = false;
  int64_t after_event_ = 0;
  int64_t after_step_ = 0;
  std::map<std::pair<std::string, int64_t>, int64_t> sent_evals_;
  std::string sent_etag_;
  int64_t sent_step_ = -1;
  absl::Time last_sent_ = absl::InfinitePast();
};

class EventsReactor : public WatchReactor<v1::Event> {
 public:
  EventsReactor(Coordinator& coordinator, AdmittedCall call, const v1::StreamEventsRequest& request)
      : WatchReactor(coordinator, std::move(call), ""),
        request_(request),
        after_(request.after()) {}

 private:
  absl::Status Gather(std::deque<v1::Event>* messages, bool* done) override {
    if (!request_.job_id().empty() && job_id().empty()) {
      VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, coordinator_.GetJob(request_.job_id()));
      SetJob(job.id());
    }
    VITSCALE_ASSIGN_OR_RETURN(const auto events,
                              coordinator_.control().Events(after_, job_id(), kEventsPerRead));
    for (const v1::Event& event : events) {
      after_ = event.sequence();
      messages->push_back(event);
    }
    *done = !request_.follow() && static_cast<int>(events.size()) < kEventsPerRead;
    return absl::OkStatus();
  }

  const v1::StreamEventsRequest request_;
  int64_t after_;
};

class LogsReactor : public WatchReactor<v1::LogLine> {
 public:
  LogsReactor(Coordinator& coordinator, AdmittedCall call, const v1::StreamLogsRequest& request)
      : WatchReactor(coordinator, std::move(call), ""),
        request_(request),
        after_(request.after()) {}

 private:
  absl::Status Begin() {
    begun_ = true;
    VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, coordinator_.GetJob(request_.job_id()));
    SetJob(job.id());
    if (request_.tail() > 0) {
      VITSCALE_ASSIGN_OR_RETURN(
          const int64_t start,
          coordinator_.steps().LogStart(job.id(), request_.rank(), request_.tail()));
      after_ = std::max(after_, start);
    }
    return absl::OkStatus();
  }

  absl::Status Gather(std::deque<v1::LogLine>* messages, bool* done) override {
    if (!begun_) VITSCALE_RETURN_IF_ERROR(Begin());
    VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, coordinator_.GetJob(job_id()));
    const absl::Time since = request_.has_since() ? FromProto(request_.since()) : absl::UnixEpoch();
    VITSCALE_ASSIGN_OR_RETURN(
        const auto lines,
        coordinator_.steps().Logs(job_id(), after_, request_.rank(), since, kLinesPerRead));
    for (const v1::LogLine& line : lines) {
      after_ = line.sequence();
      messages->push_back(line);
    }
    const bool all_read = static_cast<int>(lines.size()) < kLinesPerRead;
    const absl::Time now = coordinator_.clock().Now();
    *done = all_read && (!request_.follow() || (lines.empty() && Settled(job, job.step(), now)));
    return absl::OkStatus();
  }

  const v1::StreamLogsRequest request_;
  int64_t after_;
  bool begun_ = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchJobResponse>* RunWatchJob(Coordinator& coordinator,
                                                            AdmittedCall call,
                                                            const v1::WatchJobRequest& request) {
  return WatchReactor<v1::WatchJobResponse>::Run(
      std::make_shared<WatchJobReactor>(coordinator, std::move(call), request));
}

grpc::ServerWriteReactor<v1::Event>* RunStreamEvents(Coordinator& coordinator, AdmittedCall call,
                                                     const v1::StreamEventsRequest& request) {
  return WatchReactor<v1::Event>::Run(
      std::make_shared<EventsReactor>(coordinator, std::move(call), request));
}

grpc::ServerWriteReactor<v1::LogLine>* RunStreamLogs(Coordinator& coordinator, AdmittedCall call,
                                                     const v1::StreamLogsRequest& request) {
  return WatchReactor<v1::LogLine>::Run(
      std::make_shared<LogsReactor>(coordinator, std::move(call), request));
}

}  // namespace vitscale
