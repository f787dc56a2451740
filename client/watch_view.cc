#include "client/watch_view.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/interrupt.h"
#include "client/job_text.h"
#include "client/text.h"
#include "kernels/base/status.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

constexpr int kStepLines = 50;         // of a whole run, where there is no terminal
constexpr int64_t kStepsForRate = 51;  // fetched at the start, so that the rate is known at once
constexpr absl::Duration kRedraw = absl::Milliseconds(100);

std::string EndLine(const v1::Job& job, bool color) {
  std::string line = absl::StrCat("job ", job.id(), " (", job.spec().name(), ") ",
                                  Coloured(StateWord(job.state()), color));
  if (job.spec().kind() != v1::JOB_KIND_EVALUATE && job.total_steps() > 0) {
    absl::StrAppend(&line, " at step ", job.step(), "/", job.total_steps());
  }
  if (job.has_last_step())
    absl::StrAppend(&line, ", loss of the last step ", Significant(job.last_step().loss(), 4));
  for (const v1::EvalRecord& eval : job.last_evals()) {
    absl::StrAppend(&line, ", ", eval.name(), " ", EvalValues(eval));
  }
  if (job.has_start_time() && job.has_end_time()) {
    absl::StrAppend(&line, ", after ", Age(TimeOf(job.end_time()) - TimeOf(job.start_time())));
  }
  if (const std::string why = WhyItEnded(job); !why.empty()) {
    absl::StrAppend(&line, ", because of ", why);
  }
  return line;
}

std::string GoesOn(const v1::Job& job) {
  return absl::StrCat("the job goes on: vitscale watch ", job.id());
}

// The view's errors, but a time-out says where the job stands.
absl::Status WithWhereItStands(const absl::Status& status, const v1::Job& job) {
  if (!absl::IsDeadlineExceeded(status)) return status;
  std::string where = WaitingLine(job);
  if (where.empty()) {
    where =
        absl::StrCat("job ", job.id(), " (", job.spec().name(), ") is ", StateWord(job.state()));
  }
  return absl::DeadlineExceededError(
      absl::StrCat(status.message(), "; ", where, "; ", GoesOn(job)));
}

// Remembers the newest state of a job for a handler that may have ideas of its own.
JobHandler Remembering(JobHandler handler, v1::Job* newest) {
  handler.on_job = [next = std::move(handler.on_job), newest](const v1::Job& job) {
    *newest = job;
    if (next) next(job);
  };
  return handler;
}

// What is shown of a job where people wait for its end alone.
JobHandler QuietHandler(Context& context) {
  JobHandler handler;
  handler.on_job = [&context, shown = std::string()](const v1::Job& job) mutable {
    const std::string line = WaitingLine(job);
    if (!line.empty() && line != shown) context.err << line << std::endl;
    shown = line;
  };
  return handler;
}

}  // namespace

std::string WaitingLine(const v1::Job& job) {
  const bool waits = job.state() == v1::JOB_STATE_QUEUED || job.state() == v1::JOB_STATE_PAUSED;
  if (!waits || job.message().empty() || job.reason() == "submitted") return "";
  return absl::StrCat("job ", job.id(), " (", job.spec().name(), ") is ", StateWord(job.state()),
                      ": ", job.message());
}

WatchView::WatchView(Context& context, const v1::Job& job)
    : context_(context), shown_state_(job.state()), shown_waiting_(WaitingLine(job)) {
  view_.job = job;
  if (context_.format != OutputFormat::kJson) {
    Say(absl::StrCat("job ", job.id(), " (", job.spec().name(), ") is ",
                     Coloured(StateWord(job.state()), context_.color),
                     job.message().empty() || IsTerminal(job.state()) ? "" : ": ",
                     IsTerminal(job.state()) ? "" : job.message()));
  }
  Draw(true);
}

JobHandler WatchView::Handler() {
  JobHandler handler;
  handler.on_job = [this](const v1::Job& job) { OnJob(job); };
  handler.on_step = [this](const v1::StepRecord& step) { OnStep(step); };
  handler.on_eval = [this](const v1::EvalRecord& eval) { OnEval(eval); };
  handler.on_event = [this](const v1::Event& event) {
    if (context_.format == OutputFormat::kJson) return Json("event", event);
    if (event.kind() != "eval") Say(EventLine(event));  // evaluations come with their values
  };
  handler.on_away = [this](const absl::Status& status) {
    view_.note = "coordinator away, trying again";
    if (!context_.out_is_terminal)
      context_.err << "connection lost (" << status.message() << "), trying again\n";
    Draw(true);
  };
  handler.on_back = [this] {
    view_.note.clear();
    if (!context_.out_is_terminal) context_.err << "connected again\n";
  };
  return handler;
}

void WatchView::OnJob(const v1::Job& job) {
  const bool changed = job.state() != std::exchange(shown_state_, job.state());
  view_.job = job;
  if (context_.format == OutputFormat::kJson) return Json("job", job);
  const std::string waiting = WaitingLine(job);
  const bool news = !waiting.empty() && waiting != shown_waiting_;
  shown_waiting_ = waiting;
  if (news && !context_.out_is_terminal) return Say(waiting);  // on a terminal the bar says it
  Draw(changed);
}

void WatchView::OnStep(const v1::StepRecord& step) {
  view_.rate.Add(step);
  view_.job.set_step(std::max(view_.job.step(), step.step()));
  *view_.job.mutable_last_step() = step;
  if (context_.format == OutputFormat::kJson) return Json("step", step);
  if (context_.out_is_terminal) return Draw(false);
  const int64_t total = view_.job.total_steps();
  if (step.step() < next_step_line_ && step.step() != total) return;
  const int64_t stride = std::max<int64_t>(1, (total - view_.job.first_step()) / kStepLines);
  next_step_line_ = (step.step() / stride + 1) * stride;
  Say(StepLine(step));
}

std::string WatchView::StepLine(const v1::StepRecord& step) const {
  std::string line = absl::StrCat("step ", step.step(), "/", view_.job.total_steps(), "  loss ",
                                  Significant(step.loss(), 4), "  learning rate ",
                                  Significant(step.learning_rate(), 3));
  if (const double rate = view_.rate.images_per_second(); rate > 0) {
    absl::StrAppend(&line, "  ", Thousands(static_cast<int64_t>(rate)), " images/s");
  }
  if (const auto remaining = view_.rate.Remaining(view_.job.total_steps()); remaining) {
    absl::StrAppend(&line, "  ETA ", Age(*remaining));
  }
  return line;
}

void WatchView::OnEval(const v1::EvalRecord& eval) {
  if (context_.format == OutputFormat::kJson) return Json("eval", eval);
  Say(EvalLine(eval));
}

void WatchView::Say(const std::string& line) {
  if (std::exchange(drawn_, false)) context_.out << "\r\x1b[K";
  context_.out << line << "\n";
  Draw(true);
  context_.out.flush();
}

void WatchView::Draw(bool now) {
  if (!context_.out_is_terminal || context_.format == OutputFormat::kJson) return;
  const absl::Time time = context_.clock.Monotonic();
  if (!now && time < last_draw_ + kRedraw) return;
  last_draw_ = time;
  context_.out << "\r\x1b[K" << ProgressLine(view_, context_.columns, context_.color);
  context_.out.flush();
  drawn_ = true;
}

void WatchView::Json(const char* key, const google::protobuf::Message& message) {
  context_.out << "{\"" << key << "\": " << MessageToJson(message, {.zeros = true}) << "}\n";
  context_.out.flush();
}

void WatchView::Finish(const v1::Job& job) {
  if (context_.format == OutputFormat::kJson) return;
  view_.job = job;
  if (std::exchange(drawn_, false)) context_.out << "\r\x1b[K";
  context_.out << EndLine(job, context_.color) << "\n";
  context_.out.flush();
}

absl::StatusOr<int> WatchToTheEnd(Context& context, ControlClient& client, const std::string& job,
                                  bool quiet) {
  v1::GetJobRequest request;
  request.set_job_id(job);
  VITSCALE_ASSIGN_OR_RETURN(const v1::Job now, client.GetJob(request));
  v1::Job newest = now;
  const InterruptWords words(GoesOn(now));
  if (quiet) {
    const auto ended = FollowJob(context, client, now.id(), /*after_step=*/-1, /*after_event=*/-1,
                                 Remembering(QuietHandler(context), &newest));
    if (!ended.ok()) return WithWhereItStands(ended.status(), newest);
    context.err << EndLine(*ended, false) << "\n";
    return ExitCodeOf(ended->state());
  }
  WatchView view(context, now);
  const auto ended =
      FollowJob(context, client, now.id(), std::max<int64_t>(0, now.step() - kStepsForRate),
                /*after_event=*/0, Remembering(view.Handler(), &newest));
  if (!ended.ok()) return WithWhereItStands(ended.status(), newest);
  view.Finish(*ended);
  return ExitCodeOf(ended->state());
}

}  // namespace vitscale
