// What `vitscale watch` shows: a progress bar on a terminal, lines elsewhere, JSON lines with `-o
// json`.

#ifndef CLIENT_WATCH_VIEW_H_
#define CLIENT_WATCH_VIEW_H_

#include <string>

#include "absl/time/time.h"
#include "client/context.h"
#include "client/follow.h"
#include "client/progress.h"

namespace vitscale {

class WatchView {
 public:
  // `job` is the job as it was when watching began.
  WatchView(Context& context, const v1::Job& job);

  // Valid as long as this object.
  JobHandler Handler();
  // Clears the bar and says how the job ended.
  void Finish(const v1::Job& job);

 private:
  void OnJob(const v1::Job& job);
  void OnStep(const v1::StepRecord& step);
  void OnEval(const v1::EvalRecord& eval);
  void Say(const std::string& line);  // above the bar
  void Draw(bool now);
  void Json(const char* key, const google::protobuf::Message& message);
  std::string StepLine(const v1::StepRecord& step) const;

  Context& context_;
  ProgressView view_;
  v1::JobState shown_state_;
  std::string shown_waiting_;  // see WaitingLine
  int64_t next_step_line_ = 1;
  absl::Time last_draw_ = absl::InfinitePast();
  bool drawn_ = false;
};

// "job 3f2k (tiny) is QUEUED: needs 4 workers of one class; 1 can be used": of a job that has no
// workers and for which somebody has said why; else "".
std::string WaitingLine(const v1::Job& job);

// Follows a job with a view, to its end; the exit code. `quiet`: shows on standard error what the
// job waits for and how it ended, and nothing else. A time-out and SIGINT say that the job goes on.
absl::StatusOr<int> WatchToTheEnd(Context& context, ControlClient& client, const std::string& job,
                                  bool quiet);

}  // namespace vitscale

#endif  // CLIENT_WATCH_VIEW_H_
