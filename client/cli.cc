#include "client/cli.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/command.h"
#include "client/output.h"
#include "kernels/base/suggest.h"
#include "kernels/base/version.h"
#include "proto/spec/units.h"

namespace vitscale {
namespace {

constexpr char kFooter[] = R"(
Examples:
  vitscale submit job.yaml --set seed=2         queue a job; its id is printed
  vitscale watch fashion-mnist                  progress bar until it has ended
  vitscale logs fashion-mnist --steps -o csv    every step: loss, learning rate, norms, seconds
  vitscale plot fashion-mnist                   the loss curve as an SVG
  vitscale submit --from fashion-mnist --set 'schedule.total=2000 steps'   branch a run
  vitscale evaluate fashion-mnist               measure its newest checkpoint
  vitscale plan job.yaml                        parameters, FLOPs and memory, without running anything

Jobs are named by id, or by name: that means the job of the name that has not ended. Where all have
ended, commands that only read take the newest.
Environment: VITSCALE_ADDRESS (as --address), NO_COLOR.
Exit codes: 0 done, 1 the job or the operation failed, 2 command line or job file, 3 not found,
            4 no coordinator, 103 cancelled, 124 timed out.)";

const std::map<std::string, OutputFormat>& Formats() {
  static const auto& formats =
      *new std::map<std::string, OutputFormat>{{"table", OutputFormat::kTable},
                                               {"wide", OutputFormat::kWide},
                                               {"json", OutputFormat::kJson},
                                               {"yaml", OutputFormat::kYaml},
                                               {"csv", OutputFormat::kCsv}};
  return formats;
}

struct GlobalFlags {
  std::string format = "table";
  std::string timeout;
  bool no_color = false;
};

void DeclareGlobalFlags(CLI::App& app, Context& context, GlobalFlags& flags) {
  app.add_option("-s,--address", context.address,
                 "Coordinator: unix:/path or host:port (default: VITSCALE_ADDRESS, the local "
                 "socket, 127.0.0.1:7480)");
  app.add_option("-o,--output", flags.format, "Form of the data: table, wide, json, yaml, csv")
      ->check(OneOfWords({"table", "wide", "json", "yaml", "csv"}));
  app.add_option(
      "--timeout", flags.timeout,
      "Of each call (default 30s); of the whole for wait, watch and --follow (default: none)");
  app.add_flag("--no-color", flags.no_color, "No colours; also when NO_COLOR is set");
}

absl::Status ApplyGlobalFlags(const GlobalFlags& flags, Context& context) {
  context.format = Formats().at(flags.format);
  context.color = context.color && !flags.no_color;
  if (flags.timeout.empty()) return absl::OkStatus();
  const auto timeout = ParseDuration(flags.timeout);
  if (!timeout.ok()) return FlagError("--timeout", timeout.status().message());
  if (*timeout == absl::ZeroDuration()) return FlagError("--timeout", "was 0, wanted more");
  context.timeout = *timeout;
  return absl::OkStatus();
}

std::vector<std::string> CommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
  return names;
}

// The first word that is no flag and no command.
std::string UnknownCommand(const std::vector<std::string>& arguments, const CLI::App& app) {
  const auto names = CommandNames(app);
  if (arguments.empty() || arguments[0].empty() || arguments[0][0] == '-') return "";
  const bool known = std::find(names.begin(), names.end(), arguments[0]) != names.end();
  return known ? "" : arguments[0];
}

int ParseFailed(const CLI::App& app, const CLI::ParseError& error, Context& context) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {  // --help
    return app.exit(error, context.out, context.err);
  }
  context.err << "error: " << error.what() << "\nRun with --help for more.\n";
  return kExitUsage;
}

int Dispatch(Cli& cli) {
  if (!cli.run) {
    cli.context.out << cli.app.help();
    return kExitOk;
  }
  const absl::StatusOr<int> code = cli.run();
  if (code.ok()) return *code;
  PrintError(cli.context, code.status());
  return ExitCodeOf(code.status());
}

}  // namespace

absl::StatusOr<v1::Job> FetchJob(ControlClient& client, const std::string& job) {
  v1::GetJobRequest request;
  request.set_job_id(job);
  return client.GetJob(request);
}

absl::Status FlagError(const std::string& flag, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", message));
}

absl::Status CheckFormat(const Context& context, const std::string& command,
                         absl::Span<const OutputFormat> known) {
  std::string given;
  std::vector<std::string> words;
  for (const auto& [word, format] : Formats()) {
    if (format == context.format) given = word;
    if (std::find(known.begin(), known.end(), format) != known.end()) words.push_back(word);
  }
  if (std::find(known.begin(), known.end(), context.format) != known.end()) return absl::OkStatus();
  return FlagError("--output", absl::StrCat("was \"", given, "\", which ", command,
                                            " does not speak, wanted ", AnyOfWords(words)));
}

int RunCli(const std::vector<std::string>& arguments, Context& context) {
  CLI::App app("vitscale: pretrains Vision Transformers as a service.", "vitscale");
  TidyHelp(app);
  app.fallthrough();  // global flags may stand after the command
  app.footer(kFooter);
  app.get_formatter()->column_width(34);
  app.set_version_flag("--version", "vitscale " + VersionText());
  GlobalFlags flags;
  DeclareGlobalFlags(app, context, flags);
  Cli cli{app, context, {}};
  AddJobCommands(cli);
  AddEvaluate(cli);
  AddRecordCommands(cli);
  AddPictures(cli);
  AddWorkers(cli);
  AddLocalCommands(cli);
  app.require_subcommand(0, 1);
  if (const std::string unknown = UnknownCommand(arguments, app); !unknown.empty()) {
    context.err << "error: no command \"" << unknown << "\""
                << DidYouMean(unknown, CommandNames(app))
                << "\nRun vitscale --help for the list.\n";
    return kExitUsage;
  }
  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return ParseFailed(app, error, context);
  }
  if (const absl::Status status = ApplyGlobalFlags(flags, context); !status.ok()) {
    PrintError(context, status);
    return kExitUsage;
  }
  return Dispatch(cli);
}

}  // namespace vitscale
