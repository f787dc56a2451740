// plot, summary.

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/command.h"
#include "client/output.h"
#include "client/step_pages.h"
#include "client/summary.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

absl::StatusOr<JobHistory> FetchHistory(ControlClient& client, const std::string& name) {
  JobHistory history;
  VITSCALE_ASSIGN_OR_RETURN(history.job, FetchJob(client, name));
  const std::string& id = history.job.id();
  VITSCALE_RETURN_IF_ERROR(ForEachStepPage(client, id, 0, [&](const auto& page) {
    history.steps.insert(history.steps.end(), page.begin(), page.end());
  }));
  v1::ListEvalsRequest evals;
  evals.set_job_id(id);
  VITSCALE_ASSIGN_OR_RETURN(const v1::ListEvalsResponse found, client.ListEvals(evals));
  history.evals.assign(found.evals().begin(), found.evals().end());
  v1::ListCheckpointsRequest checkpoints;
  checkpoints.set_job_id(id);
  VITSCALE_ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse saved,
                            client.ListCheckpoints(checkpoints));
  for (const v1::CheckpointInfo& c : saved.checkpoints()) {
    if (c.id() == history.job.checkpoint()) history.checkpoint_path = c.path();
  }
  return history;
}

// Whole, or not at all: a temporary beside it is renamed over it.
absl::Status WritePicture(const std::string& path, const std::string& svg) {
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(path, error).string();
  if (error) return FlagError("--output", absl::StrCat("\"", path, "\": ", error.message()));
  return Annotate(WriteFileAtomically(PosixFileSystem(), absolute, svg), "the picture");
}

struct PlotFlags {
  std::vector<std::string> jobs;
  std::string output, x = "steps";
  bool log = false;
};

absl::StatusOr<int> PlotCommand(Context& context, const PlotFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "plot", kTextOnly));
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  std::vector<JobHistory> jobs;
  for (const std::string& name : flags.jobs) {
    VITSCALE_ASSIGN_OR_RETURN(jobs.emplace_back(), FetchHistory(*client, name));
    if (jobs.back().steps.empty()) {
      return absl::FailedPreconditionError(absl::StrCat("job ", name, " has no step to draw yet"));
    }
  }
  const std::string svg = PlotSvg(JobPlot(jobs, {flags.x == "images", flags.log}));
  if (flags.output == "-") {
    context.out << svg;
    return kExitOk;
  }
  const std::string path =
      flags.output.empty() ? absl::StrCat(jobs[0].job.spec().name(), "-", jobs[0].job.id(), ".svg")
                           : flags.output;
  VITSCALE_RETURN_IF_ERROR(WritePicture(path, svg));
  context.out << path << "\n";
  return kExitOk;
}

struct SummaryFlags {
  std::string job, plot;
};

absl::StatusOr<int> SummaryCommand(Context& context, const SummaryFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "summary", kTextOrJson));
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  VITSCALE_ASSIGN_OR_RETURN(const JobHistory history, FetchHistory(*client, flags.job));
  Summary summary = Summarize(history, context.clock.Now());
  if (!flags.plot.empty() && !history.steps.empty()) {
    VITSCALE_RETURN_IF_ERROR(WritePicture(flags.plot, PlotSvg(JobPlot({history}, {}))));
    summary.plot = flags.plot;
  }
  context.out << (context.format == OutputFormat::kJson ? SummaryJson(summary) + "\n"
                                                        : SummaryText(summary));
  return kExitOk;
}

}  // namespace

void AddPictures(Cli& cli) {
  AddCommand<PlotFlags>(
      cli, cli.app, "plot",
      "Draw the loss, the evaluations and the learning rate of jobs as an SVG.",
      "  vitscale plot fashion-mnist --output loss.svg\n  vitscale plot run-a run-b run-c --log "
      "--x images\n"
      "  vitscale plot fashion-mnist -o - > loss.svg",
      [](CLI::App& app, PlotFlags& f) {
        app.add_option("jobs", f.jobs, absl::StrCat(kJobHelp, "; several lie over each other"))
            ->required();
        app.add_option("-o,--output", f.output,
                       "File to write, - for standard output (default: <name>-<id>.svg)");
        app.add_option("--x", f.x, "Horizontal axis")
            ->capture_default_str()
            ->check(OneOfWords({"steps", "images"}));
        app.add_flag("--log", f.log, "Logarithmic loss axis");
      },
      PlotCommand);
  AddCommand<SummaryFlags>(
      cli, cli.app, "summary",
      "Say what came out of a job: accuracy, loss, speed, where the checkpoint lies.",
      "  vitscale summary fashion-mnist\n  vitscale summary fashion-mnist --plot loss.svg -o json\n"
      "\nThe loss is the training loss, a mean over the last 1 % of the steps (JSON: loss, "
      "loss_mean_steps);\nlist, get, watch and logs --steps show that of single steps (JSON: "
      "loss_last_step).",
      [](CLI::App& app, SummaryFlags& f) {
        app.add_option("job", f.job, kJobHelp)->required();
        app.add_option("--plot", f.plot, "Draw the curves into this SVG file, too");
      },
      SummaryCommand);
}

}  // namespace vitscale
