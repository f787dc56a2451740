#include "worker/bench/workers_bench.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/bench_collective.h"
#include "worker/bench/ceiling.h"
#include "worker/bench/processes.h"
#include "worker/collective/sleeping_collective.h"
#include "worker/model/vit.h"
#include "worker/plan/schedule.h"

namespace vitscale {
namespace {

using nlohmann::json;

constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr int kWarmUpSteps = 1;
constexpr char kSleeping[] = "sleeping";

// One worker: a replica, and what it sums with.
class Worker : public MarkerSink {
 public:
  static absl::StatusOr<std::unique_ptr<Worker>> Create(const BenchOptions& options) {
    auto worker = std::make_unique<Worker>();
    VITSCALE_ASSIGN_OR_RETURN(worker->replica_, MakeBenchReplica(options));
    const ModelLayout& layout = worker->replica_.plan.layout;
    for (Program program : {BuildStep(layout, {}), BuildUpdate(layout, OptimizerConfigOf(options)),
                            BuildPrepare(layout)}) {
      VITSCALE_ASSIGN_OR_RETURN(worker->programs_.emplace_back(),
                                worker->replica_.backend->Prepare(std::move(program)));
    }
    VITSCALE_RETURN_IF_ERROR(worker->RunProgram(2, {}, nullptr));
    return worker;
  }

  int64_t gradient_bytes() const {
    int64_t bytes = 0;
    for (const Bucket& bucket : replica_.plan.layout.buckets) bytes += bucket.bytes;
    return bytes;
  }

  // {algorithm, steps, exposed (seconds)}
  absl::StatusOr<json> Run(std::unique_ptr<Collective> collective, int steps, int64_t batch) {
    collective_ = std::move(collective);
    VITSCALE_RETURN_IF_ERROR(collective_->Connect(kTimeout));
    std::vector<double> seconds, exposed;
    for (int step = 0; step < kWarmUpSteps + steps; ++step) {
      absl::Status status;
      double waited = 0;
      const double took = SecondsOf([&] { status = Step(step, batch, &waited); });
      VITSCALE_RETURN_IF_ERROR(status);
      if (step < kWarmUpSteps) continue;
      seconds.push_back(took);
      exposed.push_back(waited);
    }
    VITSCALE_RETURN_IF_ERROR(collective_->Barrier(kTimeout));
    return json{{"algorithm", collective_->algorithm()}, {"steps", seconds}, {"exposed", exposed}};
  }

  void OnGradientsReady(int bucket) override {
    const Bucket& slice = replica_.plan.layout.buckets[bucket];
    const auto bytes =
        replica_.backend->HostBytes(Arena::kGradients).subspan(slice.offset_bytes, slice.bytes);
    collective_->Start(bucket, absl::MakeSpan(reinterpret_cast<float*>(bytes.data()),
                                              bytes.size() / sizeof(float)));
  }
  void OnPhase(const std::string&) override {}

 private:
  absl::Status RunProgram(int i, const StepScalars& scalars, MarkerSink* sink) {
    return replica_.backend->Run(*programs_[i], scalars, sink);
  }
  absl::Status Step(int64_t step, int64_t batch, double* waited) {
    StepScalars scalars;
    scalars.step = step;
    scalars.beta2 = AdafactorBeta2(step, 0.999);
    scalars.gradient_scale = 1.0f / static_cast<float>(batch);
    VITSCALE_RETURN_IF_ERROR(RunProgram(0, scalars, this));
    absl::Status exchanged;
    *waited = SecondsOf([&] { exchanged = collective_->ExchangeRecords({}, kTimeout).status(); });
    VITSCALE_RETURN_IF_ERROR(exchanged);
    return RunProgram(1, scalars, nullptr);
  }

  BenchReplica replica_;
  std::vector<std::unique_ptr<PreparedProgram>> programs_;
  std::unique_ptr<Collective> collective_;
};

struct Side {
  std::string name;
  int workers = 1;
  std::string algorithm;
  std::vector<double> steps, exposed;  // by repetition: the median step
};

absl::StatusOr<std::unique_ptr<Collective>> CollectiveFor(const Side& side, int rank,
                                                          const Worker& worker,
                                                          const WorkersOptions& options,
                                                          RendezvousListener& listener) {
  if (side.name != kSleeping) return MakeBenchCollective(side.name, rank, side.workers, listener);
  const double total = static_cast<double>(worker.gradient_bytes());
  return MakeSleepingCollective([total, &options](int64_t bytes) {
    absl::SleepFor(absl::Milliseconds(options.sleep_millis) * (static_cast<double>(bytes) / total));
  });
}

absl::Status RunOnce(const WorkersOptions& options, int threads, Side& side) {
  BenchOptions own = options.run;
  own.batch /= side.workers;
  own.threads = threads / side.workers;
  VITSCALE_ASSIGN_OR_RETURN(const auto listener, RendezvousListener::Open(kBenchAddress));
  VITSCALE_ASSIGN_OR_RETURN(
      const std::vector<json> ranks,
      RunInProcesses(side.workers, [&](int rank) -> absl::StatusOr<json> {
        VITSCALE_ASSIGN_OR_RETURN(const auto worker, Worker::Create(own));
        VITSCALE_ASSIGN_OR_RETURN(auto collective,
                                  CollectiveFor(side, rank, *worker, options, *listener));
        return worker->Run(std::move(collective), own.steps, options.run.batch);
      }));
  side.algorithm = ranks[0]["algorithm"];
  side.steps.push_back(Median(Slowest(ranks, "steps")));
  side.exposed.push_back(Median(Slowest(ranks, "exposed")));
  return absl::OkStatus();
}

// In a process of its own: nothing may run here when the next ones are forked.
absl::StatusOr<double> CeilingInAProcess(Precision precision, int threads) {
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<json> ceiling,
                            RunInProcesses(1, [&](int) -> absl::StatusOr<json> {
                              return json(MeasureCeiling(precision, threads).flops_per_second);
                            }));
  return ceiling[0].get<double>();
}

json Report(const Side& side, const Side& single, const WorkersOptions& options) {
  const double seconds = Median(side.steps);
  json report = {{"name", side.name},
                 {"algorithm", side.algorithm},
                 {"step_seconds", seconds},
                 {"step_seconds_min", *std::min_element(side.steps.begin(), side.steps.end())},
                 {"step_seconds_max", *std::max_element(side.steps.begin(), side.steps.end())},
                 {"exposed_seconds", Median(side.exposed)},
                 {"images_per_second", static_cast<double>(options.run.batch) / seconds}};
  if (side.name == kSleeping) {
    report["hidden_share"] = 1 - Median(side.exposed) / (1e-3 * options.sleep_millis);
    return report;
  }
  std::vector<double> ratios;
  for (size_t i = 0; i < side.steps.size(); ++i) ratios.push_back(single.steps[i] / side.steps[i]);
  report["ratio_share"] = Median(ratios);
  report["ratio_share_min"] = *std::min_element(ratios.begin(), ratios.end());
  report["ratio_share_max"] = *std::max_element(ratios.begin(), ratios.end());
  return report;
}

}  // namespace

void AddWorkersFlags(CLI::App& command, WorkersOptions& o) {
  command.add_option("--workers", o.workers, "Workers, each with its share of threads and images")
      ->check(WholeNumber(2, 64))
      ->capture_default_str();
  command.add_option("--repetitions", o.repetitions, "How often each side has its turn")
      ->check(WholeNumber(1, 1000))
      ->capture_default_str();
  command.add_option("--sleep-millis", o.sleep_millis, "How long the sums of the last side sleep")
      ->check(WholeNumber(1, 60000))
      ->capture_default_str();
  AddModelFlags(command, o.run);
}

absl::StatusOr<json> BenchWorkers(const WorkersOptions& options) {
  if (options.run.device != "cpu") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--device is ", options.run.device,
        ", wanted cpu: the workers of this benchmark sum gradients in memory of the host"));
  }
  const int threads = options.run.threads > 0 ? options.run.threads : UsableCores();
  if (threads % options.workers != 0 || options.run.batch % options.workers != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads is ", threads, " and --batch ", options.run.batch,
                     ", wanted multiples of --workers, which is ", options.workers));
  }
  std::vector<Side> sides = {{"single", 1, "", {}, {}},
                             {"shared_memory", options.workers, "", {}, {}},
                             {"gloo", options.workers, "", {}, {}},
                             {kSleeping, 1, "", {}, {}}};
  const Precision precision = options.run.precision == "f32" ? Precision::kF32 : Precision::kBf16;
  std::vector<double> ceilings;
  for (int i = 0; i < options.repetitions; ++i) {
    for (Side& side : sides) VITSCALE_RETURN_IF_ERROR(RunOnce(options, threads, side));
    if (!options.run.ceiling) continue;
    VITSCALE_ASSIGN_OR_RETURN(ceilings.emplace_back(), CeilingInAProcess(precision, threads));
  }
  json report = {{"workers", options.workers},
                 {"threads", threads},
                 {"batch", options.run.batch},
                 {"repetitions", options.repetitions}};
  if (!ceilings.empty()) {
    report["ceiling_flops_per_second"] = Median(ceilings);
    report["ceiling_min_flops_per_second"] = *std::min_element(ceilings.begin(), ceilings.end());
    report["ceiling_max_flops_per_second"] = *std::max_element(ceilings.begin(), ceilings.end());
  }
  for (const Side& side : sides) report["sides"].push_back(Report(side, sides[0], options));
  return report;
}

}  // namespace vitscale
