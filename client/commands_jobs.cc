// submit, list, get, why, watch, wait, cancel, kill, pause, resume.

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/command.h"
#include "client/follow.h"
#include "client/job_text.h"
#include "client/output.h"
#include "client/start.h"
#include "client/watch_view.h"
#include "kernels/base/status.h"
#include "kernels/base/suggest.h"
#include "proto/spec/job_spec.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

constexpr int kLastEvents = 10;

// ---- submit -------------------------------------------------------------------------------------

struct SubmitFlags {
  std::string file;
  std::vector<std::string> set;
  std::string from, name, key, priority;
  bool dry_run = false, wait = false, follow = false, quiet = false;
};

absl::StatusOr<v1::JobSpec> ReadSpec(Context& context, const std::string& file,
                                     const std::vector<std::string>& set) {
  VITSCALE_ASSIGN_OR_RETURN(const std::string text, ReadInput(context, file));
  auto spec = ParseJobSpec(text, FormatOfPath(file), set);
  if (!spec.ok()) return Annotate(spec.status(), file == "-" ? "standard input" : file);
  return spec;
}

// The micro-batch, and for which workers it was chosen.
void SayForWhat(Context& context, const v1::Job& job) {
  if (!job.message().empty()) context.err << job.message() << "\n";
}

void SayWhatNext(Context& context, const v1::Job& job) {
  SayForWhat(context, job);
  context.err << "watch it:  vitscale watch " << job.id() << "\n";
}

// The job file of the run that `from` belongs to, as a branch of it.
absl::StatusOr<v1::JobSpec> BranchSpec(ControlClient& client, const std::string& from,
                                       const std::vector<std::string>& set) {
  if (IsImported(from)) {
    return FlagError("--from", absl::StrCat("\"", from,
                                            "\" holds imported weights, and no run is behind "
                                            "them: give a job file, too"));
  }
  VITSCALE_ASSIGN_OR_RETURN(v1::JobSpec run, SpecBehind(client, from));
  const std::string name = run.name();
  run.mutable_batch()->clear_micro();  // the coordinator takes the run's where it fits the workers
  run.set_name(NameAfter(name, "branch"));
  auto spec = ParseJobSpec(ToYaml(run), SpecFormat::kYaml, set);
  if (!spec.ok()) return Annotate(spec.status(), absl::StrCat("branch of ", name));
  return spec;
}

absl::StatusOr<v1::JobSpec> SpecToSubmit(Context& context, ControlClient& client,
                                         const SubmitFlags& flags) {
  std::vector<std::string> set;
  if (!flags.from.empty()) {
    set.push_back(absl::StrCat("from=", JsonQuote(FromOf(client, flags.from))));
  }
  set.insert(set.end(), flags.set.begin(), flags.set.end());
  if (!flags.name.empty()) set.push_back(absl::StrCat("name=", flags.name));
  if (!flags.priority.empty()) set.push_back(absl::StrCat("priority=", flags.priority));
  if (!flags.file.empty()) return ReadSpec(context, flags.file, set);
  return BranchSpec(client, flags.from, set);
}

absl::StatusOr<int> Submit(Context& context, const SubmitFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "submit", kTextOrRecord));
  if (flags.file.empty() && flags.from.empty()) {
    return absl::InvalidArgumentError("submit: wanted a job file, or --from");
  }
  v1::SubmitJobRequest request;
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  VITSCALE_ASSIGN_OR_RETURN(*request.mutable_spec(), SpecToSubmit(context, *client, flags));
  request.set_request_id(flags.key.empty() ? context.RequestId() : flags.key);
  request.set_validate_only(flags.dry_run);
  const auto response = client->SubmitJob(request);
  if (absl::IsAlreadyExists(response.status()) && !flags.key.empty()) {
    return absl::AlreadyExistsError(absl::StrCat(
        "--idempotency-key: \"", flags.key, "\" was used for another job within the last 7 days"));
  }
  VITSCALE_RETURN_IF_ERROR(response.status());
  const v1::Job& job = response->job();
  if (flags.dry_run) {
    PrintMessage(context, job.spec());
    SayForWhat(context, job);
    return kExitOk;
  }
  if (flags.quiet) {
    context.out << job.id() << std::endl;
  } else if (context.format == OutputFormat::kJson || context.format == OutputFormat::kYaml) {
    PrintMessage(context, job);
  } else {
    context.out << "job " << job.id() << " (" << job.spec().name() << ") is "
                << Coloured(StateWord(job.state()), context.color) << std::endl;
  }
  if (flags.follow || flags.wait)
    return WatchToTheEnd(context, *client, job.id(), /*quiet=*/!flags.follow);
  if (!flags.quiet) SayWhatNext(context, job);
  return kExitOk;
}

void AddSubmit(Cli& cli) {
  AddCommand<SubmitFlags>(
      cli, cli.app, "submit", "Queue a job from a job file, or a branch of a run.",
      "  vitscale submit job.yaml\n"
      "  vitscale submit job.yaml --set seed=2 --set optimizer.lr=1e-3 --follow\n"
      "  generate | vitscale submit - -q                 print the id alone\n"
      "  vitscale submit job.yaml --dry-run              check it and print the canonical form\n"
      "  vitscale submit job.yaml --idempotency-key k1   repeat without queueing twice\n"
      "\nOne long run with a constant or rsqrt schedule gives many durations: branch from its "
      "checkpoints\nand cool each branch down. Optimizer count and place in the data go on; "
      "schedule.total counts from\nstep 0 of the long run.\n"
      "  for n in 100000 300000 1000000; do\n"
      "    c=$(vitscale checkpoints list long -o json | jq -r --argjson n $n \\\n"
      "        '[.[] | select(.step >= $n)] | min_by(.step) | .id')\n"
      "    vitscale submit --from $c --name long-$n \\\n"
      "        --set \"schedule.total=$((n + 50000)) steps\" --set \"schedule.cooldown=50000 "
      "steps\"\n"
      "  done",
      [](CLI::App& app, SubmitFlags& f) {
        app.add_option("file", f.file,
                       "Job file (YAML, JSON or textproto), or - for standard input (default with "
                       "--from: that of the run)");
        app.add_option("--from", f.from,
                       "Start from a checkpoint: a job (its newest), a checkpoint's id, or its "
                       "folder");
        app.add_option(
               "--set", f.set,
               "Override a field: path=value, such as batch.global=512 or evals[0].name=val")
            ->expected(1)
            ->take_all();
        app.add_option("--name", f.name, "As --set name=…");
        app.add_option("--priority", f.priority, "As --set priority=…");
        app.add_option("--idempotency-key", f.key,
                       "The same key with the same job queues it once (7 days)");
        app.add_flag("--dry-run", f.dry_run,
                     "Check it with the coordinator; print the canonical form");
        app.add_flag("--wait", f.wait, "Wait for the end; the exit code is the job's");
        app.add_flag("-f,--follow", f.follow, "Watch it to the end; the exit code is the job's");
        app.add_flag("-q,--quiet", f.quiet, "Print the job id alone");
      },
      Submit);
}

// ---- list, get, why -----------------------------------------------------------------------------

struct ListFlags {
  std::vector<std::string> states, labels;
  std::string name;
  int limit = 50;
};

absl::StatusOr<v1::JobState> StateOf(const std::string& word) {
  const auto* value = EnumByWord(*v1::JobState_descriptor(), absl::AsciiStrToLower(word));
  if (value != nullptr) return static_cast<v1::JobState>(value->number());
  std::vector<std::string> words;
  for (int i = 1; i < v1::JobState_descriptor()->value_count(); ++i) {
    words.push_back(EnumWord(*v1::JobState_descriptor()->value(i)));
  }
  return FlagError("--state", absl::StrCat("was \"", word, "\", wanted ", AnyOfWords(words),
                                           DidYouMean(word, words)));
}

absl::StatusOr<v1::ListJobsRequest> ListRequest(const ListFlags& flags) {
  v1::ListJobsRequest request;
  request.set_name(flags.name);
  for (const std::string& word : flags.states) {
    VITSCALE_ASSIGN_OR_RETURN(const v1::JobState state, StateOf(word));
    request.add_states(state);
  }
  for (const std::string& label : flags.labels) {
    if (label.find('=') == std::string::npos || label[0] == '=') {
      return FlagError("--label", absl::StrCat("was \"", label, "\", wanted key=value"));
    }
    const std::pair<std::string, std::string> pair = absl::StrSplit(label, absl::MaxSplits('=', 1));
    (*request.mutable_labels())[pair.first] = pair.second;
  }
  return request;
}

absl::StatusOr<int> List(Context& context, const ListFlags& flags) {
  VITSCALE_ASSIGN_OR_RETURN(v1::ListJobsRequest request, ListRequest(flags));
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  std::vector<v1::Job> jobs;
  do {
    const int left = flags.limit - static_cast<int>(jobs.size());
    request.set_page_size(std::min(left, 1000));
    VITSCALE_ASSIGN_OR_RETURN(const v1::ListJobsResponse page, client->ListJobs(request));
    jobs.insert(jobs.end(), page.jobs().begin(), page.jobs().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && static_cast<int>(jobs.size()) < flags.limit);
  PrintList(context, jobs, [&] {
    return JobTable(jobs, context.clock.Now(), context.format == OutputFormat::kWide,
                    context.color);
  });
  if (!request.page_token().empty()) context.err << "there are more; see --limit\n";
  return kExitOk;
}

struct JobFlags {
  std::string job;
};

// The newest events of a job, oldest first.
absl::StatusOr<std::vector<v1::Event>> LastEvents(Context& context, ControlClient& client,
                                                  const std::string& job_id) {
  v1::StreamEventsRequest request;
  request.set_job_id(job_id);
  std::vector<v1::Event> events;
  VITSCALE_RETURN_IF_ERROR(
      FollowEvents(context, client, request, [&](const v1::Event& e) { events.push_back(e); }));
  if (events.size() > kLastEvents) events.erase(events.begin(), events.end() - kLastEvents);
  return events;
}

absl::StatusOr<int> Get(Context& context, const JobFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "get", kTextOrRecord));
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, flags.job));
  if (context.format == OutputFormat::kJson || context.format == OutputFormat::kYaml) {
    PrintMessage(context, job);
    return kExitOk;
  }
  VITSCALE_ASSIGN_OR_RETURN(const auto events, LastEvents(context, *client, job.id()));
  context.out << JobDetails(job, events, context.clock.Now(), context.color);
  if (context.format == OutputFormat::kWide) context.out << "\n" << MessageToYaml(job.spec());
  return kExitOk;
}

absl::StatusOr<int> Why(Context& context, const JobFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "why", kTextOnly));
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  VITSCALE_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, flags.job));
  VITSCALE_ASSIGN_OR_RETURN(const auto events, LastEvents(context, *client, job.id()));
  context.out << JobReason(job, events, context.clock.Now(), context.color);
  return kExitOk;
}

void DeclareJob(CLI::App& app, JobFlags& f) { app.add_option("job", f.job, kJobHelp)->required(); }

void AddLooking(Cli& cli) {
  AddCommand<ListFlags>(
      cli, cli.app, "list", "List jobs, newest first.",
      "  vitscale list\n  vitscale list --state running --state queued -o wide\n  vitscale list -o "
      "json | jq '.[].id'\n"
      "\nLAST_LOSS is the training loss of the last step alone; summary has a mean.",
      [](CLI::App& app, ListFlags& f) {
        app.add_option("--state", f.states, "Only jobs in this state; may be repeated")
            ->expected(1)
            ->take_all();
        app.add_option("--label", f.labels, "Only jobs with this label, key=value; may be repeated")
            ->expected(1)
            ->take_all();
        app.add_option("--name", f.name, "Only jobs of this name");
        app.add_option("--limit", f.limit, "At most so many")
            ->capture_default_str()
            ->check(WholeNumber(1, 100000));
      },
      List)
      ->alias("ls");
  AddCommand<JobFlags>(cli, cli.app, "get", "Show everything about a job.",
                       "  vitscale get fashion-mnist\n  vitscale get 3f2k9a1b7c0d -o yaml",
                       DeclareJob, Get);
  AddCommand<JobFlags>(cli, cli.app, "why", "Say why a job is in its state, and what led to it.",
                       "  vitscale why fashion-mnist", DeclareJob, Why);
}

// ---- watch, wait --------------------------------------------------------------------------------

void AddWaiting(Cli& cli) {
  AddCommand<JobFlags>(
      cli, cli.app, "watch", "Follow a job to its end: progress, loss, images/s, events.",
      "  vitscale watch fashion-mnist\n  vitscale watch 3f2k9a1b7c0d -o json    one JSON object a "
      "line\n"
      "  vitscale watch fashion-mnist --timeout 10m",
      DeclareJob, [](Context& context, const JobFlags& flags) -> absl::StatusOr<int> {
        VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "watch", kTextOrJson));
        VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
        return WatchToTheEnd(context, *client, flags.job, /*quiet=*/false);
      });
  AddCommand<JobFlags>(
      cli, cli.app, "wait", "Wait for the end of a job; the exit code is the job's.",
      "  vitscale wait fashion-mnist && echo done\n  vitscale wait 3f2k9a1b7c0d --timeout 1h",
      DeclareJob, [](Context& context, const JobFlags& flags) -> absl::StatusOr<int> {
        VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
        return WatchToTheEnd(context, *client, flags.job, /*quiet=*/true);
      });
}

// ---- cancel, kill, pause, resume ----------------------------------------------------------------

struct JobsFlags {
  std::vector<std::string> jobs;
};

absl::StatusOr<int> SetIntents(Context& context, const JobsFlags& flags, v1::Intent intent,
                               const std::string& command) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, command, kTextOrRecord));
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  int code = kExitOk;
  for (const std::string& name : flags.jobs) {
    v1::SetIntentRequest request;
    request.set_request_id(context.RequestId());
    request.set_job_id(name);
    request.set_intent(intent);
    const auto job = client->SetIntent(request);
    if (!job.ok()) {
      PrintError(context, job.status());
      code = ExitCodeOf(job.status());
    } else if (context.format == OutputFormat::kJson || context.format == OutputFormat::kYaml) {
      PrintMessage(context, *job);
    } else {
      context.out << job->id() << "  " << Coloured(StateWord(job->state()), context.color)
                  << "  intent " << IntentWord(job->intent()) << "\n";
    }
  }
  return code;
}

void AddIntent(Cli& cli, const std::string& name, const std::string& what, v1::Intent intent) {
  AddCommand<JobsFlags>(
      cli, cli.app, name, what, absl::StrCat("  vitscale ", name, " fashion-mnist"),
      [](CLI::App& app, JobsFlags& f) {
        app.add_option("jobs", f.jobs,
                       "Ids, or names: each means the one job of that name that has not ended")
            ->required();
      },
      [intent, name](Context& context, const JobsFlags& flags) {
        return SetIntents(context, flags, intent, name);
      });
}

}  // namespace

void AddJobCommands(Cli& cli) {
  AddSubmit(cli);
  AddLooking(cli);
  AddWaiting(cli);
  AddIntent(cli, "cancel", "Let jobs save a checkpoint and end.", v1::INTENT_CANCEL);
  AddIntent(cli, "kill", "End jobs at once, without a checkpoint.", v1::INTENT_KILL);
  AddIntent(cli, "pause", "Let jobs save a checkpoint and wait for `resume`.", v1::INTENT_PAUSE);
  AddIntent(cli, "resume", "Put paused jobs back into the queue.", v1::INTENT_RUN);
}

}  // namespace vitscale
