#include "client/follow.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/text.h"

namespace vitscale {
namespace {

// A stream that ends this way may be opened again. INTERNAL and UNKNOWN are what gRPC makes of a
// coordinator that is killed in mid-message.
bool MayTryAgain(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:  // we were too slow a reader
    case absl::StatusCode::kDeadlineExceeded:   // the stream's own limit
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

// Errors that are rather faults than absences get only so many attempts.
bool IsOdd(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kResourceExhausted;
}

class JobFollower {
 public:
  JobFollower(Context& context, ControlClient& client, const std::string& job_id,
              int64_t after_step, int64_t after_event, const JobHandler& handler)
      : client_(client), handler_(handler), reconnect_(context, context.WaitDeadline()) {
    request_.set_job_id(job_id);
    request_.set_after_step(after_step);
    request_.set_after_event(after_event);
  }

  absl::StatusOr<v1::Job> Run() {
    while (!done_) {
      const absl::Status status = client_.WatchJob(
          request_, reconnect_.left(), [this](const auto& message) { return Receive(message); });
      if (done_) break;
      if (status.code() ==
          absl::StatusCode::kOutOfRange) {  // compacted since: go on from what is kept
        request_.set_after_event(-1);
        request_.set_after_step(-1);
        continue;
      }
      const bool goes_on = reconnect_.left() > absl::ZeroDuration();  // else it only timed out
      if (goes_on && !away_ && handler_.on_away) handler_.on_away(status);
      away_ = true;
      if (const absl::Status again = reconnect_.Again(status); !again.ok()) return again;
    }
    return job_;
  }

 private:
  bool Receive(const v1::WatchJobResponse& message) {
    reconnect_.Progress();
    if (std::exchange(away_, false) && handler_.on_back) handler_.on_back();
    for (const v1::Event& event : message.events()) {
      if (event.sequence() <= request_.after_event()) continue;
      request_.set_after_event(event.sequence());
      if (handler_.on_event) handler_.on_event(event);
    }
    for (const v1::StepRecord& step : message.steps()) ReceiveStep(step);
    for (const v1::EvalRecord& eval : message.evals()) ReceiveEval(eval);
    if (message.has_job()) {
      job_ = message.job();
      if (handler_.on_job) handler_.on_job(job_);
    }
    done_ = message.done();
    return !done_;
  }

  // A later lineage begins again at a lower step.
  void ReceiveStep(const v1::StepRecord& step) {
    const bool rolled_back = lineage_ >= 0 && step.lineage() > lineage_;
    if (!rolled_back && step.step() <= request_.after_step()) return;
    lineage_ = std::max(lineage_, step.lineage());
    request_.set_after_step(step.step());
    if (handler_.on_step) handler_.on_step(step);
  }

  void ReceiveEval(const v1::EvalRecord& eval) {
    auto [seen, added] = evals_.try_emplace({eval.name(), eval.step()}, eval.generation());
    if (!added && eval.generation() <= seen->second) return;
    seen->second = eval.generation();
    if (handler_.on_eval) handler_.on_eval(eval);
  }

  ControlClient& client_;
  const JobHandler& handler_;
  Reconnect reconnect_;
  v1::WatchJobRequest request_;
  v1::Job job_;
  int64_t lineage_ = -1;  // of the newest step; -1: none yet
  std::map<std::pair<std::string, int64_t>, int64_t> evals_;
  bool done_ = false, away_ = false;
};

}  // namespace

absl::Status Reconnect::Again(const absl::Status& status) {
  if (!MayTryAgain(status.code())) return status;
  if (left() <= absl::ZeroDuration()) return absl::DeadlineExceededError("timed out while waiting");
  constexpr int kOddAttemptsMax = 10;
  ++attempts_without_progress_;
  if (IsOdd(status.code()) && attempts_without_progress_ > kOddAttemptsMax) return status;
  const double jitter = 0.5 + RandomUniform(context_.random) / 2;
  context_.sleep(std::min(wait_ * jitter, left()));
  wait_ = std::min(wait_ * 2, kLongest);
  return absl::OkStatus();
}

absl::StatusOr<v1::Job> FollowJob(Context& context, ControlClient& client,
                                  const std::string& job_id, int64_t after_step,
                                  int64_t after_event, const JobHandler& handler) {
  return JobFollower(context, client, job_id, after_step, after_event, handler).Run();
}

absl::Status FollowLogs(Context& context, ControlClient& client, v1::StreamLogsRequest request,
                        const std::function<void(const v1::LogLine&)>& on_line) {
  Reconnect reconnect(context, context.WaitDeadline());
  while (true) {
    const absl::Status status =
        client.StreamLogs(request, reconnect.left(), [&](const v1::LogLine& line) {
          reconnect.Progress();
          if (line.sequence() > request.after()) {
            request.set_after(line.sequence());
            request.set_tail(0);  // only the first answer is cut
            on_line(line);
          }
          return true;
        });
    if (status.ok()) return status;
    if (!request.follow()) return status;
    if (const absl::Status again = reconnect.Again(status); !again.ok()) return again;
  }
}

absl::Status FollowEvents(Context& context, ControlClient& client, v1::StreamEventsRequest request,
                          const std::function<void(const v1::Event&)>& on_event) {
  Reconnect reconnect(context, context.WaitDeadline());
  while (true) {
    const absl::Status status =
        client.StreamEvents(request, reconnect.left(), [&](const v1::Event& event) {
          reconnect.Progress();
          if (event.sequence() > request.after()) {
            request.set_after(event.sequence());
            on_event(event);
          }
          return true;
        });
    if (!request.follow()) return status;
    if (const absl::Status again = reconnect.Again(status); !again.ok()) return again;
  }
}

}  // namespace vitscale
