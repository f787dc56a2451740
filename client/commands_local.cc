// plan, validate, completion, version: what needs no coordinator.

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/command.h"
#include "client/completion.h"
#include "client/output.h"
#include "client/plan_text.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "proto/spec/job_spec.h"
#include "proto/spec/message_text.h"
#include "proto/spec/units.h"
#include "worker/config/job_config.h"
#include "worker/plan/machine_rates.h"
#include "worker/plan/predict.h"

namespace vitscale {
namespace {

// ---- plan ---------------------------------------------------------------------------------------

struct PlanFlags {
  std::string file, memory, rates, wire;
  std::vector<std::string> set;
  std::vector<int> workers;
  bool variants = false;
  int classes = 1000, image_size = 224;
  int64_t train_images = 0;
};

absl::StatusOr<JobConfig> ReadJob(Context& context, const std::string& file,
                                  const std::vector<std::string>& set) {
  VITSCALE_ASSIGN_OR_RETURN(const std::string text, ReadInput(context, file));
  return ParseJobConfig(text, file == "-" ? "standard input" : file, set);
}

// Worker counts to show: those asked for, else the powers of two up to the job's and the job's.
std::vector<int> WorkerCounts(const PlanFlags& flags, const JobConfig& job) {
  if (!flags.workers.empty()) return flags.workers;
  std::vector<int> counts;
  for (int n = 1; n < job.workers; n *= 2) counts.push_back(n);
  counts.push_back(job.workers);
  return counts;
}

absl::StatusOr<int64_t> SizeFlag(const char* name, const std::string& text) {
  if (text.empty()) return 0;
  const auto size = ParseSize(text);
  if (!size.ok()) return FlagError(name, size.status().message());
  if (*size == 0) return FlagError(name, absl::StrCat("was \"", text, "\", wanted more than 0"));
  return *size;
}

// Steps of the whole schedule; 0 where that takes the number of training images and nobody knows
// it.
absl::StatusOr<int64_t> TotalSteps(const JobConfig& job, int64_t train_images) {
  const int64_t images = train_images > 0 ? train_images : job.train.synthetic_images;
  if (images == 0 && job.schedule.total.unit == LengthUnit::kEpochs) return 0;
  return LengthInSteps(job.schedule.total, job.batch_global, images);
}

// What the report knows of machines. A file that was asked for must be there.
absl::StatusOr<std::optional<MachineRates>> RatesOf(const PlanFlags& flags) {
  auto rates = ReadRates(flags.rates.empty() ? DefaultRatesPath() : flags.rates);
  if (rates.ok()) return std::optional(*std::move(rates));
  if (flags.rates.empty() && absl::IsNotFound(rates.status())) return std::nullopt;
  if (flags.rates.empty()) return rates.status();
  return FlagError("--rates", rates.status().message());
}

absl::StatusOr<int> PlanCommand(Context& context, const PlanFlags& flags) {
  using enum OutputFormat;
  const std::vector<OutputFormat> known =
      flags.variants ? std::vector{kTable, kWide, kJson, kCsv} : std::vector{kTable, kWide, kJson};
  VITSCALE_RETURN_IF_ERROR(
      CheckFormat(context, flags.variants ? "plan --variants" : "plan", known));
  if (flags.variants) {
    VITSCALE_ASSIGN_OR_RETURN(const auto rows, PlanVariants(flags.classes, flags.image_size));
    context.out << VariantsText(rows, context.format);
    return kExitOk;
  }
  if (flags.file.empty())
    return absl::InvalidArgumentError("plan: wanted a job file, or --variants");
  ReportOptions report;
  VITSCALE_ASSIGN_OR_RETURN(report.memory_bytes, SizeFlag("--memory", flags.memory));
  VITSCALE_ASSIGN_OR_RETURN(const int64_t wire, SizeFlag("--wire-bytes-per-second", flags.wire));
  report.wire_bytes_per_second = static_cast<double>(wire);
  VITSCALE_ASSIGN_OR_RETURN(const JobConfig job, ReadJob(context, flags.file, flags.set));
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, PlanJob(job, report.memory_bytes));
  VITSCALE_ASSIGN_OR_RETURN(report.total_steps, TotalSteps(job, flags.train_images));
  VITSCALE_ASSIGN_OR_RETURN(const std::optional<MachineRates> rates, RatesOf(flags));
  report.rates = rates ? &*rates : nullptr;
  if (context.format == OutputFormat::kJson) {
    context.out << PlanJson(plan, WorkerCounts(flags, job), report) << "\n";
    return kExitOk;
  }
  context.out << "planned for            " << PlannedFor(job, report.memory_bytes) << "\n";
  context.out << PlanText(plan, WorkerCounts(flags, job), report);
  if (!rates) {
    context.out << "predicted step         not known"
                << (plan.request.device == DeviceKind::kCuda
                        ? " for a card: rates are measured on CPUs alone\n"
                        : ": measure a worker's machine once with `vitscale-bench probe`\n");
  }
  return kExitOk;
}

void AddPlan(Cli& cli) {
  AddCommand<PlanFlags>(
      cli, cli.app, "plan",
      "Say what a job takes, without running it: parameters, FLOPs, memory, bytes on the wire, and "
      "the time, by rates that `vitscale-bench probe` measured.",
      "  vitscale plan job.yaml\n  vitscale plan job.yaml --memory 16Gi --set model.variant=B/16\n"
      "  vitscale plan job.yaml --memory 80Gi --set resources.device=cuda\n"
      "  vitscale plan job.yaml --workers 1,2,4,8 --wire-bytes-per-second 1.2G\n"
      "  vitscale plan --variants --classes 29593",
      [](CLI::App& app, PlanFlags& f) {
        app.add_option("file", f.file, "Job file, or - for standard input");
        app.add_option("--set", f.set, "Override a field: path=value")->expected(1)->take_all();
        app.add_option("--memory", f.memory,
                       "Of one worker (16Gi), of its card where resources.device is cuda: chooses "
                       "micro-batch and recompute, refuses what cannot fit");
        app.add_option("--rates", f.rates,
                       "What vitscale-bench probe wrote on a CPU worker; default: rates.txt of "
                       "the state directory, where there is one");
        app.add_option("--wire-bytes-per-second", f.wire,
                       "Of one worker's link (1G); default: what the probe saw between two "
                       "processes");
        app.add_option("--train-images", f.train_images,
                       "Images of the training set, where the schedule is given in epochs")
            ->check(WholeNumber(1, int64_t{1} << 40));
        app.add_option("--workers", f.workers, "Numbers of workers to show")
            ->delimiter(',')
            ->check(WholeNumber(1, 1024));
        app.add_flag("--variants", f.variants, "List the named variants instead");
        app.add_option("--classes", f.classes, "With --variants: classes of the head")
            ->capture_default_str()
            ->check(WholeNumber(1, 1000000));
        app.add_option("--image-size", f.image_size, "With --variants: side of the image")
            ->capture_default_str()
            ->check(WholeNumber(32, 2048));
      },
      PlanCommand);
}

// ---- validate -----------------------------------------------------------------------------------

struct ValidateFlags {
  std::string file;
  std::vector<std::string> set;
  bool print = false;
};

absl::StatusOr<int> ValidateCommand(Context& context, const ValidateFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "validate", kTextOrRecord));
  VITSCALE_ASSIGN_OR_RETURN(const JobConfig job, ReadJob(context, flags.file, flags.set));
  VITSCALE_RETURN_IF_ERROR(Annotate(PlanJob(job, /*memory_bytes=*/0).status(), flags.file));
  if (flags.print || context.format == OutputFormat::kJson ||
      context.format == OutputFormat::kYaml) {
    v1::JobSpec spec;
    VITSCALE_CHECK(spec.ParseFromString(job.canonical_bytes)) << "canonical bytes";
    PrintMessage(context, spec);
  }
  context.err << (flags.file == "-" ? "standard input" : flags.file) << ": valid\n";
  return kExitOk;
}

void AddValidate(Cli& cli) {
  AddCommand<ValidateFlags>(
      cli, cli.app, "validate", "Check a job file without a coordinator; all faults at once.",
      "  vitscale validate job.yaml\n  vitscale validate job.yaml --print    the canonical form, "
      "defaults filled",
      [](CLI::App& app, ValidateFlags& f) {
        app.add_option("file", f.file, "Job file, or - for standard input")->required();
        app.add_option("--set", f.set, "Override a field: path=value")->expected(1)->take_all();
        app.add_flag("--print", f.print, "Print the canonical form");
      },
      ValidateCommand);
}

// ---- completion, version ------------------------------------------------------------------------

struct CompletionFlags {
  std::string shell;
};

void AddCompletion(Cli& cli) {
  AddCommand<CompletionFlags>(
      cli, cli.app, "completion", "Print shell completion.",
      "  source <(vitscale completion bash)\n  vitscale completion zsh > "
      "\"${fpath[1]}/_vitscale\"\n"
      "  vitscale completion fish | source",
      [](CLI::App& app, CompletionFlags& f) {
        app.add_option("shell", f.shell, "bash, zsh or fish")
            ->required()
            ->check(OneOfWords({"bash", "zsh", "fish"}));
      },
      [&cli](Context& context, const CompletionFlags& flags) -> absl::StatusOr<int> {
        VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "completion", kTextOnly));
        context.out << (flags.shell == "bash"  ? BashCompletion(cli.app)
                        : flags.shell == "zsh" ? ZshCompletion(cli.app)
                                               : FishCompletion(cli.app));
        return kExitOk;
      });
}

struct VersionFlags {
  bool client = false;
};

absl::StatusOr<int> Version(Context& context, const VersionFlags& flags) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(context, "version", kTextOrJson));
  absl::StatusOr<v1::ServerInfo> server = absl::UnavailableError("not asked");
  if (!flags.client) {
    VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
    server = client->GetServerInfo();
  }
  if (context.format == OutputFormat::kJson) {
    context.out << "{\"client\": {\"version\": " << JsonQuote(kVersion)
                << ", \"revision\": " << JsonQuote(Revision()) << "}, \"server\": "
                << (server.ok() ? MessageToJson(*server, {.zeros = true}) : "null") << "}\n";
  } else {
    context.out << "client " << VersionText() << "\n";
    if (server.ok()) {
      context.out << "server " << server->version() << " (" << server->revision() << "), term "
                  << server->term() << ", metrics " << server->metrics_address()
                  << (server->writable() ? "" : ", store not writable") << "\n";
    }
  }
  if (!flags.client && !server.ok()) context.err << "server: " << server.status().message() << "\n";
  return kExitOk;
}

void AddVersion(Cli& cli) {
  AddCommand<VersionFlags>(
      cli, cli.app, "version", "Print the versions of client and coordinator.",
      "  vitscale version\n  vitscale version --client",
      [](CLI::App& app, VersionFlags& f) {
        app.add_flag("--client", f.client, "Do not ask the coordinator");
      },
      Version);
}

}  // namespace

void AddLocalCommands(Cli& cli) {
  AddPlan(cli);
  AddValidate(cli);
  AddCompletion(cli);
  AddVersion(cli);
}

}  // namespace vitscale
