#include "worker/bench/commands.h"

#include <algorithm>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/base/process_stats.h"
#include "kernels/base/version.h"
#include "worker/bench/allreduce_bench.h"
#include "worker/bench/bench_model.h"
#include "worker/bench/ceiling.h"
#include "worker/bench/checkpoint_bench.h"
#include "worker/bench/data_bench.h"
#include "worker/bench/op_bench.h"
#include "worker/bench/probe.h"
#include "worker/bench/step_bench.h"
#include "worker/bench/tables.h"
#include "worker/bench/workers_bench.h"

namespace vitscale {
namespace {

using nlohmann::json;

constexpr char kExamples[] = R"(
Examples:
  vitscale-bench step --variant S/16 --image-size 224 --batch 32 --precision bf16 --threads 2 --steps 10 --json
  vitscale-bench op --patch 4 --width 128 --depth 4 --heads 4 --mlp-width 512 --image-size 28 --channels 1 --batch 256
  vitscale-bench allreduce --ranks 2 --variant B/16
  vitscale-bench allreduce --transport nccl --ranks 8 --variant G/14 --classes 29593
  vitscale-bench workers --variant S/16 --workers 2 --steps 3
  vitscale-bench data --folder /data/flowers/train --threads 1,2,4
  vitscale-bench checkpoint --variant S/16 --dir /mnt/checkpoints
  vitscale-bench ceiling --precision bf16 --threads 2
  vitscale-bench probe --threads 2

--json prints one object; all values in seconds, bytes and FLOPs. Use a release build.
Exit codes: 0, 1 failed, 2 usage.)";

struct Options {
  BenchOptions model;
  AllReduceOptions allreduce;
  WorkersOptions workers;
  DataOptions data;
  CheckpointOptions checkpoint;
  ProbeOptions probe;
};

json CeilingReport(const BenchOptions& options) {
  constexpr double kSeconds = 0.3;
  const int threads = options.threads > 0 ? options.threads : UsableCores();
  const Ceiling ceiling = MeasureCeiling(
      options.precision == "f32" ? Precision::kF32 : Precision::kBf16, threads, kSeconds);
  return {{"precision", options.precision},
          {"instruction", ceiling.instruction},
          {"threads", threads},
          {"ceiling_flops_per_second", ceiling.flops_per_second},
          {"ceiling_bytes_per_second", MeasureTriadBytesPerSecond(threads)}};
}

void AddCeilingFlags(CLI::App& command, BenchOptions& o) {
  command.add_option("--precision", o.precision, "Matmul inputs")
      ->check(OneOfWords({"bf16", "f32"}))
      ->capture_default_str();
  command.add_option("--threads", o.threads, "Threads; 0: every core")
      ->check(WholeNumber(0, 1024))
      ->capture_default_str();
  command.add_flag("--json", o.json, "One JSON object instead of a table");
}

int Print(const absl::StatusOr<json>& report, bool as_json, std::ostream& out, std::ostream& err) {
  if (!report.ok()) {
    err << "vitscale-bench: " << report.status().message() << "\n";
    const absl::Status& status = report.status();
    const bool usage = absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
                       absl::IsUnimplemented(status);  // an op of --preprocess
    return usage ? 2 : 1;
  }
  out << (as_json ? report->dump() + "\n" : TableOf(*report));
  return 0;
}

struct Command {
  CLI::App* app;
  const bool* json;
  std::function<absl::StatusOr<nlohmann::json>()> run;
};

std::vector<Command> AddCommands(CLI::App& app, Options& o) {
  const auto add = [&](const char* name, const char* text) {
    return app.add_subcommand(name, text);
  };
  CLI::App* step = add("step",
                       "Whole training steps of one replica: images/s, phases, share of the "
                       "ceiling, peak memory, and which ops take the time");
  CLI::App* op = add("op", "Each op of a step: in its panel group, and alone");
  CLI::App* allreduce =
      add("allreduce",
          "Sums of gradients between ranks on this machine, by TCP, shared memory or NCCL");
  CLI::App* workers = add("workers",
                          "Steps by several workers of this machine against one with all its "
                          "threads, and how much of the sums backward hides");
  CLI::App* data = add("data", "The loader: images/s by threads, share of decoding");
  CLI::App* checkpoint =
      add("checkpoint", "Saving a model's state: how long training stalls, write, sync and verify");
  CLI::App* ceiling =
      add("ceiling", "What the machine does at most: multiplies from registers, bytes from memory");
  CLI::App* probe =
      add("probe",
          "What `vitscale plan` predicts step times from: 15 seconds or more, stored in a file");
  AddProbeFlags(*probe, o.probe);
  AddModelFlags(*step, o.model);
  step->add_flag("--roofline,!--no-roofline", o.model.roofline,
                 "Time each kind of op after the steps (default on; takes about 5 steps)");
  AddModelFlags(*op, o.model);
  AddAllReduceFlags(*allreduce, o.allreduce);
  AddWorkersFlags(*workers, o.workers);
  AddDataFlags(*data, o.data);
  AddCheckpointFlags(*checkpoint, o.checkpoint);
  AddCeilingFlags(*ceiling, o.model);
  return {{step, &o.model.json, [&o] { return BenchStep(o.model); }},
          {op, &o.model.json, [&o] { return BenchOps(o.model); }},
          {allreduce, &o.allreduce.run.json, [&o] { return BenchAllReduce(o.allreduce); }},
          {workers, &o.workers.run.json, [&o] { return BenchWorkers(o.workers); }},
          {data, &o.data.json, [&o] { return BenchData(o.data); }},
          {checkpoint, &o.checkpoint.run.json, [&o] { return BenchCheckpoint(o.checkpoint); }},
          {ceiling, &o.model.json, [&o] { return absl::StatusOr<json>(CeilingReport(o.model)); }},
          {probe, &o.probe.json, [&o] { return BenchProbe(o.probe); }}};
}

// CLI11 alone would only say that a command is missing.
bool KnowsCommand(const std::string& word, const std::vector<Command>& commands,
                  std::ostream& err) {
  std::vector<std::string> names;
  for (const Command& command : commands) names.push_back(command.app->get_name());
  if (std::find(names.begin(), names.end(), word) != names.end()) return true;
  err << "vitscale-bench: was \"" << word << "\", wanted " << AnyOfWords(names)
      << DidYouMean(word, names) << "\n";
  return false;
}

}  // namespace

int RunBench(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  CLI::App app("What steps, ops, sums, data and checkpoints of vitscale cost on this machine.",
               "vitscale-bench");
  TidyHelp(app);
  app.footer(kExamples);
  app.set_version_flag("--version", "vitscale-bench " + VersionText());
  app.require_subcommand(1);
  Options options;
  options.probe.progress = &err;
  const std::vector<Command> commands = AddCommands(app, options);
  if (argc > 1 && argv[1][0] != '-' && !KnowsCommand(argv[1], commands, err)) return 2;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, err) == 0 ? 0 : 2;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return Print(command.run(), *command.json, out, err);
  }
  return 2;
}

}  // namespace vitscale
