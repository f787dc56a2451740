// What the groups of commands share. Internal to client/.

#ifndef CLIENT_COMMAND_H_
#define CLIENT_COMMAND_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/context.h"
#include "kernels/base/command_line.h"

namespace vitscale {

// The tree and what was chosen from it: parsing sets `run`, RunCli calls it.
struct Cli {
  CLI::App& app;
  Context& context;
  std::function<absl::StatusOr<int>()> run;
};

// Adds a command whose flags live in `Flags`: `declare` binds them, `run` gets them when the
// command was chosen.
template <typename Flags>
CLI::App* AddCommand(Cli& cli, CLI::App& parent, const std::string& name, const std::string& what,
                     const std::string& examples,
                     const std::function<void(CLI::App&, Flags&)>& declare,
                     std::function<absl::StatusOr<int>(Context&, const Flags&)> run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand(name, what);
  declare(*command, *flags);
  command->footer("\nExamples:\n" + examples +
                  "\nGlobal flags (address, output, time-out): vitscale --help");
  command->callback([&cli, flags, command, run = std::move(run)] {
    if (!command->get_subcommands().empty()) return;  // one of its own commands was chosen
    cli.run = [&cli, flags, run] { return run(cli.context, *flags); };
  });
  return command;
}

struct NoFlags {};

void AddJobCommands(Cli& cli);  // submit, list, get, why, watch, wait, cancel, kill, pause, resume
void AddEvaluate(Cli& cli);     // evaluate
void AddRecordCommands(Cli& cli);                           // logs, events, checkpoints
void AddPictures(Cli& cli);                                 // plot, summary
void AddWorkers(Cli& cli);                                  // workers
void AddCheckpointFileCommands(Cli& cli, CLI::App& group);  // checkpoints show, verify
void AddWeightCommands(Cli& cli, CLI::App& group);          // checkpoints import, export
void AddLocalCommands(Cli& cli);                            // plan, validate, completion, version

// What a command that reads calls its job.
inline constexpr char kJobHelp[] =
    "Id, or name: the job of that name that has not ended, else the newest";

// By id or name, see kJobHelp.
absl::StatusOr<v1::Job> FetchJob(ControlClient& client, const std::string& job);

// Formats of commands that print one thing; a record is a message of the API.
inline constexpr OutputFormat kTextOrRecord[] = {OutputFormat::kTable, OutputFormat::kWide,
                                                 OutputFormat::kJson, OutputFormat::kYaml};
inline constexpr OutputFormat kTextOrJson[] = {OutputFormat::kTable, OutputFormat::kWide,
                                               OutputFormat::kJson};
inline constexpr OutputFormat kTextOnly[] = {OutputFormat::kTable, OutputFormat::kWide};

// What -o asks for is one of `known`, or INVALID_ARGUMENT naming those of `command`.
absl::Status CheckFormat(const Context& context, const std::string& command,
                         absl::Span<const OutputFormat> known);

// Where a file cannot be written or a flag has a wrong form: INVALID_ARGUMENT "--flag: …".
absl::Status FlagError(const std::string& flag, absl::string_view message);

}  // namespace vitscale

#endif  // CLIENT_COMMAND_H_
