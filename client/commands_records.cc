// logs, events, checkpoints.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/command.h"
#include "client/follow.h"
#include "client/job_text.h"
#include "client/output.h"
#include "client/step_pages.h"
#include "kernels/base/status.h"
#include "proto/spec/message_text.h"
#include "proto/spec/units.h"

namespace vitscale {
namespace {

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
  if (!flags.steps) VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "logs", kTextOrRecord));
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
        app.add_option("job", f.job, kJobHelp)->required();
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
  if (flags.follow) {
    VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "events --follow", kTextOrRecord));
  }
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
    VITSCALE_RETURN_IF_ERROR(
        CheckFormat(context, pinned ? "checkpoints pin" : "checkpoints unpin", kTextOrRecord));
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
        app.add_option("job", f.job, kJobHelp)->required();
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

}  // namespace

void AddRecordCommands(Cli& cli) {
  AddLogs(cli);
  AddEvents(cli);
  AddCheckpoints(cli);
}

}  // namespace vitscale
