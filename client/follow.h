// Following a job, its logs or its events across broken connections: no gap, no duplicate.
//
// The coordinator numbers everything; a follower remembers the last number it has handed on, asks
// for what comes after it and drops what it has seen. Between attempts it waits 0.2 s, doubling to
// 5 s, with jitter.

#ifndef CLIENT_FOLLOW_H_
#define CLIENT_FOLLOW_H_

#include <functional>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/context.h"
#include "client/control_client.h"

namespace vitscale {

// Waits between attempts, and knows when to give up.
class Reconnect {
 public:
  // `deadline` on context.clock.Monotonic().
  Reconnect(Context& context, absl::Time deadline) : context_(context), deadline_(deadline) {}

  // Zero where next to nothing is left: a stream's own timer may be that early.
  absl::Duration left() const {
    const absl::Duration left = deadline_ - context_.clock.Monotonic();
    return left < absl::Milliseconds(20) ? absl::ZeroDuration() : left;
  }
  void Progress() {
    wait_ = kFirst;
    attempts_without_progress_ = 0;
  }
  // After a stream has ended with `status`: OK to try again (it has waited), else why not.
  absl::Status Again(const absl::Status& status);

 private:
  static constexpr absl::Duration kFirst = absl::Milliseconds(200);
  static constexpr absl::Duration kLongest = absl::Seconds(5);
  Context& context_;
  const absl::Time deadline_;
  absl::Duration wait_ = kFirst;
  int attempts_without_progress_ = 0;
};

// What a follower of a job is told, in order. All are optional.
struct JobHandler {
  std::function<void(const v1::Job&)> on_job;
  std::function<void(const v1::StepRecord&)> on_step;
  std::function<void(const v1::EvalRecord&)> on_eval;
  std::function<void(const v1::Event&)> on_event;
  std::function<void(const absl::Status&)> on_away;  // connection lost, trying again
  std::function<void()> on_back;
};

// Follows until the job has ended and everything about it was handed on; the job at its end.
// `after_step`, `after_event`: as in WatchJobRequest. Errors: DEADLINE_EXCEEDED, NOT_FOUND, …
absl::StatusOr<v1::Job> FollowJob(Context& context, ControlClient& client,
                                  const std::string& job_id, int64_t after_step,
                                  int64_t after_event, const JobHandler& handler);

// Follows until the end of the job (request.follow) or of what is kept.
absl::Status FollowLogs(Context& context, ControlClient& client, v1::StreamLogsRequest request,
                        const std::function<void(const v1::LogLine&)>& on_line);
absl::Status FollowEvents(Context& context, ControlClient& client, v1::StreamEventsRequest request,
                          const std::function<void(const v1::Event&)>& on_event);

}  // namespace vitscale

#endif  // CLIENT_FOLLOW_H_
