// vitscale-bench: what a step costs on this machine, op by op, and what the machine could do at
// most.
//
//   vitscale-bench step --variant S/16 --image-size 224 --batch 32 --precision bf16 --threads 2
//   --steps 10 --json vitscale-bench op --patch 4 --width 64 --depth 4 --heads 2 --mlp-width 256
//   --image-size 28 --channels 1 … vitscale-bench ceiling --precision bf16 --threads 1
//
// Exit codes: 0, 1 failed, 2 usage.

#include <csignal>
#include <iostream>

#include "absl/strings/str_format.h"
#include "worker/bench/bench_model.h"
#include "worker/bench/ceiling.h"
#include "worker/bench/op_bench.h"
#include "worker/bench/step_bench.h"

namespace vitscale {
namespace {

using nlohmann::json;

std::string ValueText(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return absl::StrFormat("%.5g", value.get<double>());
  return value.dump();
}

void PrintScalars(const json& report) {
  for (const auto& [key, value] : report.items()) {
    if (!value.is_structured()) std::cout << absl::StrFormat("%-24s %s\n", key, ValueText(value));
  }
}

void PrintPhases(const json& report) {
  if (!report.contains("phases")) return;
  for (const auto& [phase, seconds] : report["phases"].items()) {
    const double share = seconds.get<double>() / report["step_seconds"].get<double>();
    std::cout << absl::StrFormat("  %-22s %9.3f ms %6.1f %%\n", phase, 1e3 * seconds.get<double>(),
                                 100 * share);
  }
}

void PrintTallies(const json& list, const char* title) {
  std::cout << absl::StrFormat("\n%9s %6s %6s %9s %8s  %s\n", "ms", "share", "count", "GFLOP/s",
                               "GB/s", title);
  double total = 0;
  for (const json& row : list) {
    total += row["seconds"].get<double>();
    std::cout << absl::StrFormat(
        "%9.3f %5.1f%% %6d %9.1f %8.2f  %s\n", 1e3 * row["seconds"].get<double>(),
        100 * row["share"].get<double>(), row["count"].get<int>(), row["gflops"].get<double>(),
        row["gigabytes_per_second"].get<double>(), row["name"].get<std::string>());
  }
  std::cout << absl::StrFormat("%9.3f  sum\n", 1e3 * total);
}

int Print(const absl::StatusOr<json>& report, bool as_json) {
  if (!report.ok()) {
    std::cerr << "vitscale-bench: " << report.status().message() << "\n";
    return report.status().code() == absl::StatusCode::kInvalidArgument ||
                   report.status().code() == absl::StatusCode::kNotFound
               ? 2
               : 1;
  }
  if (as_json) {
    std::cout << report->dump() << "\n";
    return 0;
  }
  PrintScalars(*report);
  PrintPhases(*report);
  if (report->contains("groups")) PrintTallies((*report)["groups"], "as in a step");
  if (report->contains("ops")) PrintTallies((*report)["ops"], "each op alone, whole batch");
  return 0;
}

json CeilingReport(const std::string& precision, int threads) {
  const Ceiling ceiling =
      MeasureCeiling(precision == "f32" ? Precision::kF32 : Precision::kBf16, threads, 0.3);
  return {{"precision", precision},
          {"instruction", ceiling.instruction},
          {"gflops", ceiling.flops_per_second / 1e9},
          {"threads", threads}};
}

int Main(int argc, char** argv) {
  CLI::App app("Times steps and ops of vitscale on this machine.", "vitscale-bench");
  TidyHelp(app);
  app.require_subcommand(1);
  BenchOptions options;
  CLI::App* step = app.add_subcommand("step", "Whole training steps of one replica");
  CLI::App* op = app.add_subcommand("op", "Each op of a step, and its share");
  CLI::App* ceiling =
      app.add_subcommand("ceiling", "What the machine multiplies at most, from registers");
  AddModelFlags(*step, options);
  AddModelFlags(*op, options);
  ceiling->add_option("--precision", options.precision, "bf16 or f32")
      ->check(OneOfWords({"bf16", "f32"}));
  ceiling->add_option("--threads", options.threads, "Threads; 0: every core")
      ->check(WholeNumber(0, 1024));
  ceiling->add_flag("--json", options.json, "One JSON object");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  if (step->parsed()) return Print(BenchStep(options), options.json);
  if (op->parsed()) return Print(BenchOps(options), options.json);
  return Print(CeilingReport(options.precision, options.threads), options.json);
}

}  // namespace
}  // namespace vitscale

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  return vitscale::Main(argc, argv);
}
