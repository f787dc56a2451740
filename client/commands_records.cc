// logs, events, plot, summary, checkpoints, workers.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/command.h"
#include "client/follow.h"
#include "client/job_text.h"
#include "client/output.h"
#include "client/summary.h"
#include "kernels/base/files.h"
#include "kernels/base/status.h"
#include "proto/spec/message_text.h"
#include "proto/spec/units.h"

namespace vitscale {
namespace {

constexpr int kStepsPerPage = 10000;
constexpr int kLastStepsTries = 30;
constexpr absl::Duration kLastStepsPause = absl::Milliseconds(100);

// Step records reach the store in batches, the last ones a moment after their job has ended: true
// as long as the job is known to have done more steps than `after`.
bool LastStepsAreOnTheirWay(ControlClient& client, const std::string& job_id, int64_t after) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  const absl::StatusOr<v1::Job> job = client.GetJob(request);
  return job.ok() && job->state() == v1::JOB_STATE_SUCCEEDED &&
         std::max(after, job->first_step()) < job->step();
}

// Calls `use` with every page of the steps after `after`.
absl::Status ForEachStepPage(ControlClient& client, const std::string& job_id, int64_t after,
                             const std::function<void(const std::vector<v1::StepRecord>&)>& use) {
  v1::ListStepsRequest request;
  request.set_job_id(job_id);
  request.set_after_step(after);
  request.set_page_size(kStepsPerPage);
  for (int tries = 0; tries < kLastStepsTries;) {
    VITSCALE_ASSIGN_OR_RETURN(const v1::ListStepsResponse page, client.ListSteps(request));
    if (!page.steps().empty()) {
      use({page.steps().begin(), page.steps().end()});
      request.set_after_step(page.steps().rbegin()->step());
    }
    if (page.more()) continue;
    if (!LastStepsAreOnTheirWay(client, job_id, request.after_step())) break;
    absl::SleepFor(kLastStepsPause);
    ++tries;
  }
  return absl::OkStatus();
}

bool JsonOrYaml(const Context& context) {
  return context.format == OutputFormat::kJson || context.format == OutputFormat::kYaml;
}

// A stream of records: JSON lines, YAML documents, or `line`.
void PrintRecord(Context& context, const google::protobuf::Message& record,
                 const std::string& line) {
  if (context.format == OutputFormat::kYaml) {
    context.out << "---\n" << MessageToYaml(record);
  } else if (context.format == OutputFormat::kJson) {
    context.out << MessageToJson(record, {.zeros = true}) << "\n";
  } else {
    context.out << line << "\n";
  }
}

// ---- logs ---------------------------------------------------------------------------------------

struct LogFlags {
  std::string job, since;
  bool follow = false, steps = false;
  int rank = -1, tail = 0;
};

// "10m" is ten minutes ago; else RFC 3339.
absl::StatusOr<absl::Time> SinceOf(const std::string& text, absl::Time now) {
  if (const auto ago = ParseDuration(text); ago.ok()) return now - *ago;
  absl::Time time;
  if (std::string error; absl::ParseTime(absl::RFC3339_full, text, &time, &error)) return time;
  return FlagError("--since",
                   absl::StrCat("was \"", text,
                                "\", wanted a duration such as \"10m\" or a time such as "
                                "\"2026-01-31T12:00:00Z\""));
}

// Prints pages of steps in one table: the head only once.
class StepPrinter {
 public:
  explicit StepPrinter(Context& context) : context_(context) {}
  void Print(const std::vector<v1::StepRecord>& steps) {
    if (JsonOrYaml(context_)) {
      for (const v1::StepRecord& step : steps) PrintRecord(context_, step, "");
    } else {
      const bool csv = context_.format == OutputFormat::kCsv;
      const Table table = StepTable(steps, context_.format == OutputFormat::kWide, csv);
      std::string text = csv ? table.Csv() : table.Text();
      if (std::exchange(head_done_, true)) text.erase(0, text.find('\n') + 1);
      context_.out << text;
    }
    context_.out.flush();
  }

 private:
  Context& context_;
  bool head_done_ = false;
};

absl::StatusOr<int> PrintSteps(Context& context, ControlClient& client, const LogFlags& flags) {
  VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(client, flags.job));
  const int64_t after = flags.tail > 0 ? std::max<int64_t>(0, job.step() - flags.tail) : 0;
  StepPrinter printer(context);
  if (!flags.follow) {
    VITSCALE_RETURN_IF_ERROR(
        ForEachStepPage(client, job.id(), after, [&](const auto& page) { printer.Print(page); }));
    return kExitOk;
  }
  JobHandler handler;
  handler.on_step = [&](const v1::StepRecord& step) { printer.Print({step}); };
  VITSCALE_ASSIGN_OR_RETURN(const v1::Job ended,
                            FollowJob(context, client, job.id(), after, -1, handler));
  return ExitCodeOf(ended.state());
}

absl::StatusOr<int> Logs(Context& context, const LogFlags& flags) {
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  if (flags.steps) return PrintSteps(context, *client, flags);
  v1::StreamLogsRequest request;
  request.set_rank(flags.rank);
  request.set_tail(flags.tail);
  request.set_follow(flags.follow);
  if (!flags.since.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(const absl::Time since, SinceOf(flags.since, context.clock.Now()));
    request.mutable_since()->set_seconds(absl::ToUnixSeconds(since));
  }
  VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, flags.job));
  request.set_job_id(job.id());
  VITSCALE_RETURN_IF_ERROR(FollowLogs(context, *client, request, [&](const v1::LogLine& line) {
    PrintRecord(context, line, LogText(line));
    if (flags.follow) context.out.flush();
  }));
  return kExitOk;
}

void AddLogs(Cli& cli) {
  AddCommand<LogFlags>(
      cli, cli.app, "logs", "Print the output of a job's trainers, or every step record.",
      "  vitscale logs fashion-mnist -f\n  vitscale logs fashion-mnist --rank 1 --since 10m\n"
      "  vitscale logs fashion-mnist --steps -o csv > steps.csv\n  vitscale logs fashion-mnist "
      "--steps --tail 20",
      [](CLI::App& app, LogFlags& f) {
        app.add_option("job", f.job, "Id, or a name that only one job has")->required();
        app.add_flag("-f,--follow", f.follow, "Go on until the job has ended");
        app.add_option("--rank", f.rank, "Only this rank")->check(WholeNumber(0, 1023));
        app.add_option("--tail", f.tail, "Only the last n")->check(WholeNumber(1, 1'000'000'000));
        app.add_option("--since", f.since, "Only since: a duration (10m) or a time (RFC 3339)");
        app.add_flag("--steps", f.steps,
                     "Every step: loss, accuracy, learning rate, norms, seconds");
      },
      Logs);
}

// ---- events -------------------------------------------------------------------------------------

struct EventFlags {
  std::string job;
  bool follow = false;
  int64_t after = 0;
};

absl::StatusOr<int> Events(Context& context, const EventFlags& flags) {
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  v1::StreamEventsRequest request;
  request.set_after(flags.after);
  request.set_follow(flags.follow);
  if (!flags.job.empty()) {
    VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, flags.job));
    request.set_job_id(job.id());
  }
  if (flags.follow) {
    VITSCALE_RETURN_IF_ERROR(FollowEvents(context, *client, request, [&](const v1::Event& event) {
      PrintRecord(context, event,
                  absl::StrCat(event.sequence(), "  ", event.job_id(),
                               event.job_id().empty() ? "" : "  ", EventLine(event)));
      context.out.flush();
    }));
    return kExitOk;
  }
  std::vector<v1::Event> events;
  VITSCALE_RETURN_IF_ERROR(
      FollowEvents(context, *client, request, [&](const v1::Event& e) { events.push_back(e); }));
  PrintList(context, events,
            [&] { return EventTable(events, context.format == OutputFormat::kWide); });
  return kExitOk;
}

void AddEvents(Cli& cli) {
  AddCommand<EventFlags>(
      cli, cli.app, "events", "Print the event log, of one job or of everything.",
      "  vitscale events fashion-mnist\n  vitscale events -f -o json",
      [](CLI::App& app, EventFlags& f) {
        app.add_option("job", f.job, "Only this job");
        app.add_flag("-f,--follow", f.follow, "Go on with new ones");
        app.add_option("--after", f.after, "Only events after this sequence number");
      },
      Events);
}

// ---- plot, summary ------------------------------------------------------------------------------

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
  VITSCALE_RETURN_IF_ERROR(CheckFormat(
      context, "summary", {OutputFormat::kTable, OutputFormat::kWide, OutputFormat::kJson}));
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

void AddPictures(Cli& cli) {
  AddCommand<PlotFlags>(
      cli, cli.app, "plot",
      "Draw the loss, the evaluations and the learning rate of jobs as an SVG.",
      "  vitscale plot fashion-mnist --output loss.svg\n  vitscale plot run-a run-b run-c --log "
      "--x images\n"
      "  vitscale plot fashion-mnist -o - > loss.svg",
      [](CLI::App& app, PlotFlags& f) {
        app.add_option("jobs", f.jobs,
                       "Ids, or names that only one job has; several lie over each other")
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
        app.add_option("job", f.job, "Id, or a name that only one job has")->required();
        app.add_option("--plot", f.plot, "Draw the curves into this SVG file, too");
      },
      SummaryCommand);
}

// ---- checkpoints --------------------------------------------------------------------------------

struct CheckpointFlags {
  std::string job;
  bool deleted = false;
};

absl::StatusOr<int> ListCheckpointsOf(Context& context, const CheckpointFlags& flags) {
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, flags.job));
  v1::ListCheckpointsRequest request;
  request.set_job_id(job.id());
  VITSCALE_ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse found,
                            client->ListCheckpoints(request));
  std::vector<v1::CheckpointInfo> shown;
  for (const v1::CheckpointInfo& c : found.checkpoints()) {
    if (flags.deleted || !c.deleted()) shown.push_back(c);
  }
  PrintList(context, shown, [&] {
    return CheckpointTable(shown, context.clock.Now(), context.format == OutputFormat::kWide);
  });
  return kExitOk;
}

struct PinFlags {
  std::string id;
};

std::function<absl::StatusOr<int>(Context&, const PinFlags&)> Pin(bool pinned) {
  return [pinned](Context& context, const PinFlags& flags) -> absl::StatusOr<int> {
    VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
    v1::PinCheckpointRequest request;
    request.set_request_id(context.RequestId());
    request.set_checkpoint_id(flags.id);
    request.set_pinned(pinned);
    VITSCALE_ASSIGN_OR_RETURN(const v1::CheckpointInfo info, client->PinCheckpoint(request));
    if (JsonOrYaml(context)) {
      PrintMessage(context, info);
    } else {
      context.out << info.id() << (info.pinned() ? " pinned\n" : " not pinned\n");
    }
    return kExitOk;
  };
}

void AddCheckpoints(Cli& cli) {
  CLI::App* group = AddCommand<NoFlags>(
      cli, cli.app, "checkpoints", "List, pin, show, verify, import and export checkpoints.",
      "  vitscale checkpoints list fashion-mnist\n  vitscale checkpoints pin "
      "3f2k9a1b7c0d/a0001.g0001.step_000001000\n"
      "  vitscale checkpoints import i21k_B_32.npz --out checkpoints\n"
      "  vitscale checkpoints export checkpoints/3f2k9a1b7c0d --format timm --out vit.safetensors",
      [](CLI::App& app, NoFlags&) { app.require_subcommand(1); },
      [](Context&, const NoFlags&) -> absl::StatusOr<int> { return kExitUsage; });
  AddCommand<CheckpointFlags>(
      cli, *group, "list", "List the checkpoints of a job, newest first.",
      "  vitscale checkpoints list fashion-mnist -o wide",
      [](CLI::App& app, CheckpointFlags& f) {
        app.add_option("job", f.job, "Id, or a name that only one job has")->required();
        app.add_flag("--deleted", f.deleted, "Those deleted by retention, too");
      },
      ListCheckpointsOf);
  const auto declare = [](CLI::App& app, PinFlags& f) {
    app.add_option("checkpoint", f.id, "Its id, as checkpoints list prints it")->required();
  };
  AddCommand<PinFlags>(cli, *group, "pin", "Keep a checkpoint whatever retention says.",
                       "  vitscale checkpoints pin 3f2k9a1b7c0d/a0001.g0001.step_000001000",
                       declare, Pin(true));
  AddCommand<PinFlags>(cli, *group, "unpin", "Let retention have a checkpoint.",
                       "  vitscale checkpoints unpin 3f2k9a1b7c0d/a0001.g0001.step_000001000",
                       declare, Pin(false));
  AddCheckpointFileCommands(cli, *group);
  AddWeightCommands(cli, *group);
}

// ---- workers ------------------------------------------------------------------------------------

absl::StatusOr<int> ListAllWorkers(Context& context, const NoFlags&) {
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  std::vector<v1::Worker> workers;
  v1::ListWorkersRequest request;
  do {
    VITSCALE_ASSIGN_OR_RETURN(const v1::ListWorkersResponse page, client->ListWorkers(request));
    workers.insert(workers.end(), page.workers().begin(), page.workers().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  PrintList(context, workers, [&] {
    return WorkerTable(workers, context.clock.Now(), context.format == OutputFormat::kWide,
                       context.color);
  });
  return kExitOk;
}

struct WorkerFlags {
  std::string worker;
  bool undo = false;
};

absl::StatusOr<int> Update(Context& context, v1::UpdateWorkerRequest request) {
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  request.set_request_id(context.RequestId());
  VITSCALE_ASSIGN_OR_RETURN(const v1::Worker worker, client->UpdateWorker(request));
  if (JsonOrYaml(context)) {
    PrintMessage(context, worker);
  } else {
    context.out << worker.id() << "  " << Coloured(StateWord(worker.state()), context.color)
                << "\n";
  }
  return kExitOk;
}

void AddWorkers(Cli& cli) {
  CLI::App* group = AddCommand<NoFlags>(
      cli, cli.app, "workers", "List workers; drain or release one.",
      "  vitscale workers\n  vitscale workers -o wide\n  vitscale workers drain box7-cpu0",
      [](CLI::App& app, NoFlags&) { app.require_subcommand(0, 1); }, ListAllWorkers);
  AddCommand<NoFlags>(
      cli, *group, "list", "List workers.", "  vitscale workers list -o json",
      [](CLI::App&, NoFlags&) {}, ListAllWorkers);
  AddCommand<WorkerFlags>(
      cli, *group, "drain", "Give a worker nothing new and let its job leave.",
      "  vitscale workers drain box7-cpu0\n  vitscale workers drain box7-cpu0 --undo",
      [](CLI::App& app, WorkerFlags& f) {
        app.add_option("worker", f.worker, "Its id")->required();
        app.add_flag("--undo", f.undo, "Back to work");
      },
      [](Context& context, const WorkerFlags& flags) {
        v1::UpdateWorkerRequest request;
        request.set_worker_id(flags.worker);
        request.set_drain(!flags.undo);
        return Update(context, request);
      });
  AddCommand<WorkerFlags>(
      cli, *group, "release", "Take a worker out of quarantine.",
      "  vitscale workers release box7-cpu0",
      [](CLI::App& app, WorkerFlags& f) {
        app.add_option("worker", f.worker, "Its id")->required();
      },
      [](Context& context, const WorkerFlags& flags) {
        v1::UpdateWorkerRequest request;
        request.set_worker_id(flags.worker);
        request.set_release(true);
        return Update(context, request);
      });
}

}  // namespace

void AddRecordCommands(Cli& cli) {
  AddLogs(cli);
  AddEvents(cli);
  AddPictures(cli);
  AddCheckpoints(cli);
  AddWorkers(cli);
}

}  // namespace vitscale
