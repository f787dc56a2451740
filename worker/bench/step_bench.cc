#include "worker/bench/step_bench.h"

#include <algorithm>
#include <map>

#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/ceiling.h"
#include "worker/model/vit.h"
#include "worker/plan/schedule.h"

namespace vitscale {
namespace {

constexpr int kWarmUpSteps = 2;

// Seconds from each phase marker to the next.
class PhaseTimer : public MarkerSink {
 public:
  void OnGradientsReady(int /*bucket*/) override {}
  void OnPhase(const std::string& name) override {
    const auto now = std::chrono::steady_clock::now();
    Close(now);
    phase_ = name;
    start_ = now;
  }
  // Ends the last phase; the seconds of each since the last call.
  std::map<std::string, double> Take() {
    Close(std::chrono::steady_clock::now());
    phase_.clear();
    return std::exchange(seconds_, {});
  }

 private:
  void Close(std::chrono::steady_clock::time_point now) {
    if (!phase_.empty()) seconds_[phase_] += std::chrono::duration<double>(now - start_).count();
  }
  std::string phase_;
  std::chrono::steady_clock::time_point start_;
  std::map<std::string, double> seconds_;
};

class Stepper {
 public:
  static absl::StatusOr<Stepper> Create(const BenchOptions& options) {
    Stepper stepper;
    VITSCALE_ASSIGN_OR_RETURN(stepper.replica_, MakeBenchReplica(options));
    const ModelLayout& layout = stepper.replica_.plan.layout;
    OptimizerConfig optimizer;
    optimizer.kind = OptimizerOf(options);
    optimizer.learning_rate = 1e-4;
    VITSCALE_RETURN_IF_ERROR(stepper.Add(BuildStep(layout, {})));
    VITSCALE_RETURN_IF_ERROR(stepper.Add(BuildUpdate(layout, optimizer)));
    VITSCALE_RETURN_IF_ERROR(stepper.Add(BuildPrepare(layout)));
    VITSCALE_RETURN_IF_ERROR(stepper.RunProgram(2));
    return stepper;
  }

  absl::Status Step(int64_t step, MarkerSink* sink) {
    scalars_.step = step;
    scalars_.beta2 = AdafactorBeta2(step, 0.999);
    scalars_.gradient_scale = 1.0f / static_cast<float>(replica_.plan.layout.batch);
    for (int i = 0; i < 3; ++i) VITSCALE_RETURN_IF_ERROR(RunProgram(i, sink));
    return absl::OkStatus();
  }
  absl::StatusOr<double> Loss() {
    double sum = 0;
    VITSCALE_RETURN_IF_ERROR(
        replica_.backend->Read(replica_.plan.layout.statistics.loss_sum,
                               {reinterpret_cast<std::byte*>(&sum), sizeof(sum)}));
    return sum / static_cast<double>(replica_.plan.layout.batch);
  }
  const BenchReplica& replica() const { return replica_; }

 private:
  absl::Status Add(Program program) {
    VITSCALE_ASSIGN_OR_RETURN(auto prepared, replica_.backend->Prepare(std::move(program)));
    programs_.push_back(std::move(prepared));
    return absl::OkStatus();
  }
  absl::Status RunProgram(int i, MarkerSink* sink = nullptr) {
    return replica_.backend->Run(*programs_[i], scalars_, sink);
  }

  BenchReplica replica_;
  std::vector<std::unique_ptr<PreparedProgram>> programs_;
  StepScalars scalars_;
};

struct Timings {
  std::vector<double> steps;
  std::map<std::string, std::vector<double>> phases;
};
absl::StatusOr<Timings> TimeSteps(Stepper& stepper, int steps) {
  Timings timings;
  PhaseTimer timer;
  for (int i = 0; i < kWarmUpSteps + steps; ++i) {
    absl::Status status;
    const double seconds = SecondsOf([&] { status = stepper.Step(i, &timer); });
    VITSCALE_RETURN_IF_ERROR(status);
    const std::map<std::string, double> phases = timer.Take();
    if (i < kWarmUpSteps) continue;
    timings.steps.push_back(seconds);
    for (const auto& [phase, phase_seconds] : phases)
      timings.phases[phase].push_back(phase_seconds);
  }
  return timings;
}

}  // namespace

absl::StatusOr<nlohmann::json> BenchStep(const BenchOptions& options) {
  VITSCALE_ASSIGN_OR_RETURN(Stepper stepper, Stepper::Create(options));
  VITSCALE_ASSIGN_OR_RETURN(const Timings timings, TimeSteps(stepper, options.steps));
  VITSCALE_ASSIGN_OR_RETURN(const double loss, stepper.Loss());
  const double seconds = Median(timings.steps);
  const double flops =
      stepper.replica().plan.flops.training() * static_cast<double>(options.batch) / seconds;
  nlohmann::json report = Describe(options, stepper.replica());
  report["step_seconds"] = seconds;
  report["step_seconds_min"] = *std::min_element(timings.steps.begin(), timings.steps.end());
  report["step_seconds_max"] = *std::max_element(timings.steps.begin(), timings.steps.end());
  report["images_per_second"] = static_cast<double>(options.batch) / seconds;
  report["gflops"] = flops / 1e9;
  for (const auto& [phase, values] : timings.phases) report["phases"][phase] = Median(values);
  if (options.ceiling) {
    const Ceiling ceiling = MeasureCeiling(stepper.replica().plan.request.precision,
                                           stepper.replica().backend->info().threads);
    report["ceiling_gflops"] = ceiling.flops_per_second / 1e9;
    report["ceiling_share"] = flops / ceiling.flops_per_second;
  }
  report["loss"] = loss;
  report["resident_bytes"] = ResidentBytes();
  return report;
}

}  // namespace vitscale
