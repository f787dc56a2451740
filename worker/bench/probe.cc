#include "worker/bench/probe.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/base/files.h"
#include "kernels/base/path.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/allreduce_bench.h"
#include "worker/bench/ceiling.h"
#include "worker/bench/profile.h"

namespace vitscale {
namespace {

constexpr int kRepetitions = 2;

BenchOptions OptionsOf(const ProbeSample& sample, Precision precision, const ProbeOptions& probe) {
  BenchOptions o;
  o.custom = {sample.patch, sample.width, /*depth=*/1, sample.heads, 4 * sample.width};
  o.image_size = sample.image_size;
  o.channels = sample.channels;
  o.batch = sample.batch;
  o.precision = PrecisionName(precision);
  o.threads = probe.threads;
  o.instruction_set = probe.instruction_set;
  return o;
}

// The state of one block fits into a cache, that of a model does not: ops of the update are measured
// on their own.
void AddKinds(const std::vector<Tally>& kinds, Precision precision, int width, bool of_update,
              MachineRates& rates) {
  for (const Tally& kind : kinds) {
    const double work = kind.cost.flops > 0 ? kind.cost.flops : kind.cost.bytes;
    if (IsOfUpdate(kind.name) != of_update || work <= 0 || kind.seconds <= 0) continue;
    rates.Add(precision, kind.name, width, work / kind.seconds);
  }
}

absl::Status AddSample(const ProbeSample& sample, Precision precision, const ProbeOptions& probe,
                       MachineRates& rates) {
  const BenchOptions options = OptionsOf(sample, precision, probe);
  VITSCALE_ASSIGN_OR_RETURN(BenchReplica replica, MakeBenchReplica(options));
  VITSCALE_ASSIGN_OR_RETURN(const StepProfile profile,
                            ProfileStep(replica, OptimizerConfigOf(options), kRepetitions));
  AddKinds(profile.kinds, precision, sample.width, /*of_update=*/false, rates);
  return absl::OkStatus();
}

absl::Status AddUpdate(Precision precision, const ProbeOptions& probe, MachineRates& rates) {
  BenchOptions options = OptionsOf({384, 6, 16, 224, 3, 1}, precision, probe);
  options.custom.depth = probe.update_depth;
  for (const char* rule : {"adafactor", "adamw", "sgd"}) {
    options.optimizer = rule;
    VITSCALE_ASSIGN_OR_RETURN(BenchReplica replica, MakeBenchReplica(options));
    VITSCALE_ASSIGN_OR_RETURN(const std::vector<Tally> kinds,
                              ProfileUpdate(replica, OptimizerConfigOf(options), kRepetitions));
    AddKinds(kinds, precision, options.custom.width, /*of_update=*/true, rates);
  }
  return absl::OkStatus();
}

// A rank's share of the wire: what a sum of two ranks on this machine sends, over its seconds.
double WireBytesPerSecond() {
  AllReduceOptions options;
  options.bytes = int64_t{64} << 20;
  options.transport = "shared_memory";
  options.run.steps = 3;
  const auto report = BenchAllReduce(options);
  return report.ok() ? (*report)["bytes_per_second"].get<double>() : 0;
}

}  // namespace

void AddProbeFlags(CLI::App& command, ProbeOptions& o) {
  command.add_option("--threads", o.threads, "Threads of one worker; 0: every core")
      ->check(WholeNumber(0, 1024))
      ->capture_default_str();
  command.add_option("--isa", o.instruction_set,
                     "Instruction set to force: avx2, avx512, avx512_bf16");
  command.add_option("--out", o.out, "Where to write; default: rates.txt of the state directory");
  command.add_flag("--json", o.json, "One JSON object instead of a table");
}

absl::StatusOr<MachineRates> MeasureRates(const ProbeOptions& options) {
  MachineRates rates;
  rates.wire_bytes_per_second = WireBytesPerSecond();  // first: it forks
  const BackendInfo info =
      DescribeCpu({.threads = options.threads, .instruction_set = options.instruction_set});
  rates.device = absl::StrCat(info.device, " (", info.instruction_set, ", ", info.libraries, ")");
  rates.measured = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  rates.threads = info.threads;
  for (const Precision precision : {Precision::kBf16, Precision::kF32}) {
    rates.ceiling_flops_per_second[precision] =
        MeasureCeiling(precision, info.threads, 0.05).flops_per_second;
    for (const ProbeSample& sample : options.samples)
      VITSCALE_RETURN_IF_ERROR(AddSample(sample, precision, options, rates));
    VITSCALE_RETURN_IF_ERROR(AddUpdate(precision, options, rates));
  }
  rates.memory_bytes_per_second = MeasureTriadBytesPerSecond(info.threads);
  return rates;
}

absl::StatusOr<nlohmann::json> BenchProbe(const ProbeOptions& options) {
  absl::StatusOr<MachineRates> rates = absl::UnknownError("not measured");
  const double seconds = SecondsOf([&] { rates = MeasureRates(options); });
  VITSCALE_RETURN_IF_ERROR(rates.status());
  const std::string path = options.out.empty() ? DefaultRatesPath() : AbsolutePath(options.out);
  FileSystem& fs = PosixFileSystem();
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  VITSCALE_RETURN_IF_ERROR(Annotate(fs.MakeDirectories(folder), "--out"));
  VITSCALE_RETURN_IF_ERROR(Annotate(WriteFileAtomically(fs, path, rates->ToText()), "--out"));
  return nlohmann::json{
      {"out", path},
      {"device", rates->device},
      {"threads", rates->threads},
      {"seconds", seconds},
      {"bf16_flops_per_second", rates->ceiling_flops_per_second[Precision::kBf16]},
      {"f32_flops_per_second", rates->ceiling_flops_per_second[Precision::kF32]},
      {"memory_bytes_per_second", rates->memory_bytes_per_second},
      {"wire_bytes_per_second", rates->wire_bytes_per_second}};
}

}  // namespace vitscale
