#include "client/summary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/job_text.h"
#include "client/measures.h"
#include "client/text.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

constexpr std::array<const char*, 6> kColors = {"#2f6fb3", "#d9622b", "#3a9a53",
                                                "#8656b5", "#b8860b", "#c03d5a"};

size_t LossMeanSteps(const std::vector<v1::StepRecord>& steps) {
  return std::min(steps.size(), std::max<size_t>(1, steps.size() / 100));
}

double MeanLoss(const std::vector<v1::StepRecord>& steps) {
  if (steps.empty()) return std::nan("");
  const size_t count = LossMeanSteps(steps);
  double sum = 0;
  for (size_t i = steps.size() - count; i < steps.size(); ++i) sum += steps[i].loss();
  return sum / static_cast<double>(count);
}

std::string StepsText(int64_t steps) {
  return steps == 1 ? "step" : absl::StrCat(Thousands(steps), " steps");
}

std::string LossText(const Summary& s) {
  const std::string loss = Significant(s.loss, 4);
  if (s.loss_mean_steps == 1) return absl::StrCat(loss, " (last step)");
  return absl::StrCat(loss, " (mean of the last ", StepsText(s.loss_mean_steps),
                      "; the last one alone: ", Significant(s.loss_last_step, 4), ")");
}

double ImagesPerSecond(const std::vector<v1::StepRecord>& steps) {
  double images = 0, seconds = 0;
  for (size_t i = 1; i < steps.size(); ++i) {  // the first step of a process warms up
    images += static_cast<double>(steps[i].images() - steps[i - 1].images());
    seconds += steps[i].step_seconds();
  }
  return seconds > 0 ? images / seconds : 0;
}

// The last value of that name of the first evaluation that has it, and the evaluation's name.
std::pair<std::optional<double>, std::string> LastValue(const JobHistory& history,
                                                        const std::string& value) {
  std::pair<std::optional<double>, std::string> last;
  for (const v1::EvalRecord& eval : history.evals) {
    const auto found = eval.values().find(value);
    if (found == eval.values().end() || (last.first && eval.name() != last.second)) continue;
    last = {found->second, eval.name()};
  }
  return last;
}

double X(const PlotOptions& options, int64_t step, int64_t images) {
  return static_cast<double>(options.by_images ? images : step);
}

std::string Label(const JobHistory& history) {
  return absl::StrCat(history.job.spec().name(), " ", history.job.id());
}

void AddLoss(const JobHistory& history, const PlotOptions& options, bool several,
             const std::string& color, PlotPanel* panel) {
  std::vector<PlotPoint> raw;
  for (const v1::StepRecord& s : history.steps)
    raw.push_back({X(options, s.step(), s.images()), s.loss()});
  const double span = std::max(1.0, static_cast<double>(raw.size()) / 100);
  if (!several) panel->series.push_back({"each step", raw, color, false, {}, 0.28, 1.0});
  panel->series.push_back(
      {several ? Label(history) : "smoothed", Smoothed(raw, span), color, false, {}, 1.0, 2.0});
  PlotSeries marks{several ? "" : "evaluation", {}, several ? color : kColors[1], true, {}, 1, 1.6};
  for (const v1::EvalRecord& e : history.evals) {
    const auto loss = e.values().find("loss");
    if (loss != e.values().end())
      marks.points.push_back({X(options, e.step(), e.images()), loss->second});
  }
  if (!marks.points.empty()) panel->series.push_back(std::move(marks));
}

// One value of the first evaluation that has it, over the run; `name` stands at the end of the
// line.
void AddShare(const JobHistory& history, const PlotOptions& options, const std::string& value,
              const std::string& name, const std::string& color, PlotPanel* panel) {
  PlotSeries line{"", {}, color, false, {}, 0.6, 1.6}, marks{"", {}, color, true, {}, 1, 1.6};
  std::string eval;
  for (const v1::EvalRecord& e : history.evals) {
    const auto found = e.values().find(value);
    if (found == e.values().end() || (!eval.empty() && e.name() != eval)) continue;
    eval = e.name();
    line.points.push_back({X(options, e.step(), e.images()), 100 * found->second});
    marks.labels.push_back("");
  }
  if (line.points.empty()) return;
  marks.points = line.points;
  marks.labels.back() = name;
  panel->series.push_back(std::move(line));
  panel->series.push_back(std::move(marks));
}

void AddTop1(const JobHistory& history, const PlotOptions& options, bool several,
             const std::string& color, PlotPanel* panel) {
  const double last = 100 * LastValue(history, "top1").first.value_or(0);
  AddShare(history, options, "top1", several ? "" : absl::StrFormat("%.2f %%", last), color, panel);
}

// Of one job a line for each number of shots, of several jobs the one of 10 shots.
void AddFewShot(const JobHistory& history, const PlotOptions& options, bool several,
                const std::string& color, PlotPanel* panel) {
  if (several) return AddShare(history, options, "10shot", "", color, panel);
  std::map<int, std::string> values;
  for (const v1::EvalRecord& e : history.evals) {
    for (const Measure& measure : MeasuresOf(e)) {
      if (measure.shots > 0 && !measure.swept) values[measure.shots] = measure.name;
    }
  }
  size_t i = 0;
  for (const auto& [shots, value] : values) {
    const double last = 100 * LastValue(history, value).first.value_or(0);
    AddShare(history, options, value, absl::StrFormat("%d: %.2f %%", shots, last),
             kColors[i++ % kColors.size()], panel);
  }
}

void AddLearningRate(const JobHistory& history, const PlotOptions& options, bool several,
                     const std::string& color, PlotPanel* panel) {
  PlotSeries line{"", {}, several ? color : kColors[2], false, {}, 1, 1.6};
  for (const v1::StepRecord& s : history.steps) {
    line.points.push_back({X(options, s.step(), s.images()), s.learning_rate()});
  }
  panel->series.push_back(std::move(line));
}

std::string Subtitle(const std::vector<JobHistory>& jobs) {
  if (jobs.size() != 1) return absl::StrCat(jobs.size(), " jobs");
  const v1::Job& job = jobs[0].job;
  std::string text = absl::StrCat("job ", job.id(), ", ", StateWord(job.state()), ", step ",
                                  Thousands(job.step()));
  if (job.total_steps() > 0) absl::StrAppend(&text, " of ", Thousands(job.total_steps()));
  absl::StrAppend(&text, ", global batch ", Thousands(job.spec().batch().global()));
  if (!jobs[0].steps.empty())
    absl::StrAppend(&text, ", loss ", Significant(MeanLoss(jobs[0].steps), 4),
                    " (mean of the last ", StepsText(LossMeanSteps(jobs[0].steps)), ")");
  return text;
}

}  // namespace

Summary Summarize(const JobHistory& history, absl::Time now) {
  const v1::Job& job = history.job;
  Summary s;
  s.job_id = job.id();
  s.name = job.spec().name();
  s.state = StateWord(job.state());
  s.reason = job.reason();
  s.message = job.message();
  s.why = WhyItEnded(job);
  s.steps = job.step();
  s.first_step = job.first_step();
  s.from = job.spec().from();
  s.images = history.steps.empty() ? 0 : history.steps.back().images();
  s.workers = job.spec().resources().workers().max();
  std::tie(s.top1, s.eval_name) = LastValue(history, "top1");
  std::tie(s.few_shot_10, s.few_shot_name) = LastValue(history, "10shot");
  s.loss = MeanLoss(history.steps);
  s.loss_mean_steps = static_cast<int64_t>(LossMeanSteps(history.steps));
  s.loss_last_step = history.steps.empty() ? std::nan("") : history.steps.back().loss();
  s.images_per_second = ImagesPerSecond(history.steps);
  if (job.has_start_time()) {
    const absl::Time end = job.has_end_time() ? TimeOf(job.end_time()) : now;
    s.training_seconds = absl::ToDoubleSeconds(end - TimeOf(job.start_time()));
  }
  s.checkpoint = history.checkpoint_path.empty() ? job.checkpoint() : history.checkpoint_path;
  return s;
}

std::string SummaryText(const Summary& s) {
  std::string out;
  const auto line = [&](const char* name, const std::string& value) {
    if (!value.empty()) absl::StrAppend(&out, absl::StrFormat("  %-17s", name), value, "\n");
  };
  line("job", absl::StrCat(s.job_id, " (", s.name, ") ", s.state));
  line("because of", s.why);
  line("from", s.from);
  if (s.first_step == 0 || s.steps > s.first_step) {  // not of an evaluation
    line("steps",
         absl::StrCat(s.first_step > 0 ? absl::StrCat(Thousands(s.first_step), " to ") : "",
                      Thousands(s.steps), " (", Thousands(s.images), " images, ", s.workers,
                      s.workers == 1 ? " worker)" : " workers)"));
  }
  if (s.top1) line("top-1", absl::StrFormat("%.2f %% (%s)", 100 * *s.top1, s.eval_name));
  if (s.few_shot_10) {
    line("10-shot", absl::StrFormat("%.2f %% (%s)", 100 * *s.few_shot_10, s.few_shot_name));
  }
  if (s.steps > s.first_step) {
    line("training loss", LossText(s));
    line("images/s", Thousands(static_cast<int64_t>(std::llround(s.images_per_second))));
  }
  line("training seconds", absl::StrFormat("%.1f", s.training_seconds));
  line("checkpoint", s.checkpoint);
  line("loss curve", s.plot);
  return out;
}

std::string SummaryJson(const Summary& s) {
  const auto number = [](double value) {
    return std::isfinite(value) ? ShortestDouble(value) : std::string("null");
  };
  std::string out =
      absl::StrCat("{\"job\": ", JsonQuote(s.job_id), ", \"name\": ", JsonQuote(s.name),
                   ", \"state\": ", JsonQuote(s.state), ", \"reason\": ", JsonQuote(s.reason),
                   ", \"message\": ", JsonQuote(s.message), ", \"steps\": ", s.steps,
                   ", \"first_step\": ", s.first_step, ", \"images\": ", s.images);
  absl::StrAppend(&out, ", \"top1\": ", s.top1 ? number(*s.top1) : "null",
                  ", \"fewshot_10\": ", s.few_shot_10 ? number(*s.few_shot_10) : "null",
                  ", \"loss\": ", number(s.loss), ", \"loss_mean_steps\": ", s.loss_mean_steps,
                  ", \"loss_last_step\": ", number(s.loss_last_step),
                  ", \"images_per_second\": ", number(s.images_per_second),
                  ", \"training_seconds\": ", number(s.training_seconds));
  absl::StrAppend(&out, ", \"workers\": ", s.workers,
                  ", \"checkpoint\": ", JsonQuote(s.checkpoint));
  if (!s.plot.empty()) absl::StrAppend(&out, ", \"plot\": ", JsonQuote(s.plot));
  return out + "}";
}

Plot JobPlot(const std::vector<JobHistory>& jobs, const PlotOptions& options) {
  const bool several = jobs.size() > 1;
  Plot plot;
  plot.title = jobs.size() == 1 ? jobs[0].job.spec().name() : "vitscale";
  plot.subtitle = Subtitle(jobs);
  plot.x_label = options.by_images ? "images" : "steps";
  PlotPanel loss{"training loss", {}, options.log_loss}, top1{"top-1, %", {}, false},
      few_shot{"few-shot accuracy, %, by images per class", {}, false},
      rate{"learning rate", {}, false};
  for (size_t i = 0; i < jobs.size(); ++i) {
    const std::string color = kColors[i % kColors.size()];
    AddLoss(jobs[i], options, several, color, &loss);
    AddTop1(jobs[i], options, several, color, &top1);
    AddFewShot(jobs[i], options, several, color, &few_shot);
    AddLearningRate(jobs[i], options, several, color, &rate);
  }
  plot.panels.push_back(std::move(loss));
  if (!top1.series.empty()) plot.panels.push_back(std::move(top1));
  if (!few_shot.series.empty()) plot.panels.push_back(std::move(few_shot));
  plot.panels.push_back(std::move(rate));
  return plot;
}

}  // namespace vitscale
