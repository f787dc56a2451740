// What came out of a job, and its curves: from records to numbers and pictures. No I/O.

#ifndef CLIENT_SUMMARY_H_
#define CLIENT_SUMMARY_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/plot.h"
#include "vitscale/v1/job.pb.h"

namespace vitscale {

// Everything about one job that was stored.
struct JobHistory {
  v1::Job job;
  std::vector<v1::StepRecord> steps;  // in order
  std::vector<v1::EvalRecord> evals;  // in order
  std::string checkpoint_path;        // of the newest checkpoint; empty: none
};

struct Summary {
  std::string job_id, name, state;
  std::string reason, message;  // of that state, a code and words
  std::string why;              // both, of a job that ended without success
  int64_t steps = 0, images = 0;
  int64_t first_step = 0;      // of a branch: steps that were done when it began
  std::string from;            // the checkpoint it began with; empty: initialisation
  std::optional<double> top1;  // 0 to 1, of the last evaluation that has it
  std::string eval_name;
  std::optional<double> few_shot_10;  // 0 to 1, of 10 images per class, the same
  std::string few_shot_name;
  double loss = 0;              // training loss, mean over the last 1 % of the steps (at least one)
  int64_t loss_mean_steps = 0;  // how many those are
  double loss_last_step = 0;    // of the last step alone, as list, get and watch show it
  double images_per_second = 0;  // images of the steps by the wall time of the steps
  double training_seconds = 0;   // wall time from the first start to the end
  int workers = 0;
  std::string checkpoint;  // its path
  std::string plot;        // path of the picture; empty: none was drawn
};

Summary Summarize(const JobHistory& history, absl::Time now);
std::string SummaryText(const Summary& summary);
std::string SummaryJson(const Summary& summary);  // one line

struct PlotOptions {
  bool by_images = false;  // x axis; else steps
  bool log_loss = false;
};

// Loss (raw and smoothed) with evaluation losses, top-1 and few-shot accuracies where there are
// any, learning rate. Several jobs lie over each other, each in its colour, smoothed only.
Plot JobPlot(const std::vector<JobHistory>& jobs, const PlotOptions& options);

}  // namespace vitscale

#endif  // CLIENT_SUMMARY_H_
