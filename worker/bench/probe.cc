#include "worker/bench/probe.h"

#include <algorithm>
#include <iterator>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
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
// Beyond it a warning: predictions are to be within 20 %, which rates of such a machine cannot
// give.
constexpr double kSpreadShareMax = 0.3;

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

// The state of one block fits into a cache, that of a model does not: ops of the update are
// measured on their own.
void AddKinds(const std::vector<Tally>& kinds, Precision precision, int width, bool of_update,
              MachineRates& rates) {
  for (const Tally& kind : kinds) {
    const double work = kind.cost.flops > 0 ? kind.cost.flops : kind.cost.bytes;
    if (IsOfUpdate(kind.name) != of_update || work <= 0 || kind.seconds <= 0) continue;
    rates.Add(precision, kind.name, width, work / kind.seconds);
  }
}

// Measures part by part and says which it is at.
class Probe {
 public:
  explicit Probe(const ProbeOptions& options)
      : options_(options),
        parts_(2 * static_cast<int>(options.samples.size() + std::size(kRules))) {}

  absl::Status AddSample(const ProbeSample& sample, Precision precision) {
    Tell(precision, absl::StrCat("width ", sample.width));
    const BenchOptions options = OptionsOf(sample, precision, options_);
    VITSCALE_ASSIGN_OR_RETURN(BenchReplica replica, MakeBenchReplica(options));
    VITSCALE_ASSIGN_OR_RETURN(const StepProfile profile,
                              ProfileStep(replica, OptimizerConfigOf(options), kRepetitions));
    Add(profile.kinds, precision, sample.width, /*of_update=*/false);
    return absl::OkStatus();
  }

  absl::Status AddUpdates(Precision precision) {
    BenchOptions options = OptionsOf({384, 6, 16, 224, 3, 1}, precision, options_);
    options.custom.depth = options_.update_depth;
    for (const char* rule : kRules) {
      Tell(precision, rule);
      options.optimizer = rule;
      VITSCALE_ASSIGN_OR_RETURN(BenchReplica replica, MakeBenchReplica(options));
      VITSCALE_ASSIGN_OR_RETURN(const std::vector<Tally> kinds,
                                ProfileUpdate(replica, OptimizerConfigOf(options), kRepetitions));
      Add(kinds, precision, options.custom.width, /*of_update=*/true);
    }
    return absl::OkStatus();
  }

  ProbeResult& result() { return result_; }

 private:
  static constexpr const char* kRules[] = {"adafactor", "adamw", "sgd"};

  void Tell(Precision precision, const std::string& part) {
    ++part_;
    if (options_.progress == nullptr) return;
    *options_.progress << "vitscale-bench: " << part_ << " of " << parts_ << ": "
                       << PrecisionName(precision) << ", " << part << std::endl;
  }
  void Add(const std::vector<Tally>& kinds, Precision precision, int width, bool of_update) {
    AddKinds(kinds, precision, width, of_update, result_.rates);
    double fastest = 0, slowest = 0;
    for (const Tally& kind : kinds) {
      fastest += kind.seconds;
      slowest += kind.slowest_seconds;
    }
    if (fastest > 0) result_.spread_share = std::max(result_.spread_share, slowest / fastest - 1);
  }

  const ProbeOptions& options_;
  const int parts_;
  int part_ = 0;
  ProbeResult result_;
};

// A rank's share of the wire: what a sum of two ranks on this machine sends, over its seconds.
double WireBytesPerSecond() {
  AllReduceOptions options;
  options.bytes = int64_t{64} << 20;
  options.transport = "shared_memory";
  options.run.steps = 3;
  const auto report = BenchAllReduce(options);
  return report.ok() ? (*report)["bytes_per_second"].get<double>() : 0;
}

std::string SpreadWarning(double spread_share) {
  return absl::StrFormat(
      "vitscale-bench: warning: repetitions differ by up to %.0f %%: something else uses this "
      "machine; measure again when it does not",
      100 * spread_share);
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

absl::StatusOr<ProbeResult> MeasureRates(const ProbeOptions& options) {
  Probe probe(options);
  MachineRates& rates = probe.result().rates;
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
      VITSCALE_RETURN_IF_ERROR(probe.AddSample(sample, precision));
    VITSCALE_RETURN_IF_ERROR(probe.AddUpdates(precision));
  }
  rates.memory_bytes_per_second = MeasureTriadBytesPerSecond(info.threads);
  return probe.result();
}

absl::StatusOr<nlohmann::json> BenchProbe(const ProbeOptions& options) {
  absl::StatusOr<ProbeResult> result = absl::UnknownError("not measured");
  const double seconds = SecondsOf([&] { result = MeasureRates(options); });
  VITSCALE_RETURN_IF_ERROR(result.status());
  const MachineRates& rates = result->rates;
  if (options.progress != nullptr && result->spread_share > kSpreadShareMax)
    *options.progress << SpreadWarning(result->spread_share) << std::endl;
  const std::string path = options.out.empty() ? DefaultRatesPath() : AbsolutePath(options.out);
  FileSystem& fs = PosixFileSystem();
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  VITSCALE_RETURN_IF_ERROR(Annotate(fs.MakeDirectories(folder), "--out"));
  VITSCALE_RETURN_IF_ERROR(Annotate(WriteFileAtomically(fs, path, rates.ToText()), "--out"));
  return nlohmann::json{
      {"out", path},
      {"device", rates.device},
      {"threads", rates.threads},
      {"seconds", seconds},
      {"spread_share", result->spread_share},
      {"bf16_flops_per_second", rates.ceiling_flops_per_second.at(Precision::kBf16)},
      {"f32_flops_per_second", rates.ceiling_flops_per_second.at(Precision::kF32)},
      {"memory_bytes_per_second", rates.memory_bytes_per_second},
      {"wire_bytes_per_second", rates.wire_bytes_per_second}};
}

}  // namespace vitscale
