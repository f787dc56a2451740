#include "worker/bench/step_bench.h"

#include <algorithm>
#include <map>
#include <optional>

#include "kernels/base/process_stats.h"
#include "kernels/base/status.h"
#include "worker/bench/optimizer_floor.h"
#include "worker/bench/peak.h"
#include "worker/bench/profile.h"
#include "worker/model/vit.h"
#include "worker/plan/card_bytes.h"
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
    VITSCALE_RETURN_IF_ERROR(stepper.Add(BuildStep(layout, {})));
    VITSCALE_RETURN_IF_ERROR(stepper.Add(BuildUpdate(layout, OptimizerConfigOf(options))));
    VITSCALE_RETURN_IF_ERROR(stepper.Add(BuildPrepare(layout)));
    VITSCALE_RETURN_IF_ERROR(stepper.RunProgram(2));
    return stepper;
  }

  absl::Status Step(int64_t step, MarkerSink* sink) {
    scalars_.step = step;
    scalars_.beta2 = AdafactorBeta2(step, 0.999);
    scalars_.gradient_scale = 1.0f / static_cast<float>(replica_.plan.layout.batch);
    for (int i = 0; i < 2; ++i) VITSCALE_RETURN_IF_ERROR(RunProgram(i, sink));
    return absl::OkStatus();
  }
  absl::StatusOr<double> Loss() {
    double sum = 0;
    VITSCALE_RETURN_IF_ERROR(
        replica_.backend->Read(replica_.plan.layout.statistics.loss_sum,
                               {reinterpret_cast<std::byte*>(&sum), sizeof(sum)}));
    return sum / static_cast<double>(replica_.plan.layout.batch);
  }
  BenchReplica& replica() { return replica_; }

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

nlohmann::json StepReport(const Timings& timings, double images, double flops_per_image) {
  const double seconds = Median(timings.steps);
  nlohmann::json report = {
      {"step_seconds", seconds},
      {"step_seconds_min", *std::min_element(timings.steps.begin(), timings.steps.end())},
      {"step_seconds_max", *std::max_element(timings.steps.begin(), timings.steps.end())},
      {"images_per_second", images / seconds},
      {"flops_per_second", images * flops_per_image / seconds}};
  for (const auto& [phase, values] : timings.phases) report["phases"][phase] = Median(values);
  return report;
}

// What the machine could do, right after the steps, and which ops are how far from it.
absl::Status AddCeiling(const BenchOptions& options, BenchReplica& replica,
                        nlohmann::json& report) {
  const std::optional<Peak> peak = PeakOf(options, replica, options.roofline);
  if (!peak.has_value()) return absl::OkStatus();  // a card that nobody told us about
  report["ceiling_flops_per_second"] = peak->flops_per_second;
  report["ceiling_share"] = report["flops_per_second"].get<double>() / peak->flops_per_second;
  if (!options.roofline) return absl::OkStatus();
  constexpr int kRepetitions = 2;
  VITSCALE_ASSIGN_OR_RETURN(const StepProfile profile,
                            ProfileStep(replica, OptimizerConfigOf(options), kRepetitions));
  report["ceiling_bytes_per_second"] = peak->bytes_per_second;
  report["roofline"] = RooflineJson(profile.kinds, peak->flops_per_second, peak->bytes_per_second);
  report.update(OptimizerReport(replica.plan, OptimizerConfigOf(options), profile.kinds,
                                peak->bytes_per_second));
  return absl::OkStatus();
}

// What the plan said a step would hold beside what the process came to; of a card, the report's
// head has both figures (Describe).
void AddMemory(const BenchReplica& replica, int64_t process_bytes, nlohmann::json& report) {
  const Plan& plan = replica.plan;
  const BackendMemory own = replica.backend->memory();
  const bool card = plan.request.device == DeviceKind::kCuda;
  const int64_t measured = PeakResidentBytes(),
                planned = card ? kCudaProcessBytes + kPinnedStagingBytes
                               : plan.step_bytes(process_bytes);
  report["peak_rss_bytes"] = measured;
  report["planned_rss_bytes"] = planned;
  report["planned_share"] = static_cast<double>(planned) / static_cast<double>(measured);
  nlohmann::json& memory = report["memory"];
  for (int i = 0; i < kArenaCount; ++i) {
    if (plan.arena_bytes[i] > 0) memory[ArenaName(static_cast<Arena>(i))] = plan.arena_bytes[i];
  }
  memory["compute_weights"] = own.compute_weights;
  memory["compute_weights_planned"] = plan.compute_weight_bytes;
  memory["workspace"] = own.workspace;
  memory["workspace_planned"] = plan.workspace_bytes;
  memory["process"] = process_bytes;
}

// Both ways in turns, so that a machine that slows down slows both.
absl::StatusOr<nlohmann::json> ComparePacking(BenchOptions options) {
  constexpr int kTurns = 3;
  options.ceiling = false;
  std::map<std::string, std::vector<double>> seconds;
  nlohmann::json report;
  for (int turn = 0; turn < kTurns; ++turn) {
    for (const char* way : {"persistent", "per_use"}) {
      options.packed_weights = way;
      VITSCALE_ASSIGN_OR_RETURN(report, BenchStep(options));
      seconds[way].push_back(report["step_seconds"].get<double>());
    }
  }
  VITSCALE_ASSIGN_OR_RETURN(const PlanRequest request, RequestOf(options));
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
  const double persistent = Median(seconds["persistent"]), per_use = Median(seconds["per_use"]);
  return nlohmann::json{{"model", report["model"]},
                        {"batch", report["batch"]},
                        {"precision", report["precision"]},
                        {"persistent_step_seconds", persistent},
                        {"per_use_step_seconds", per_use},
                        {"per_use_extra_share", per_use / persistent - 1},
                        {"persistent_weight_bytes", plan.persistent_weight_bytes},
                        {"per_use_weight_bytes", plan.per_use_weight_bytes}};
}

}  // namespace

absl::StatusOr<nlohmann::json> BenchStep(const BenchOptions& options) {
  if (options.packed_weights == "compare") return ComparePacking(options);
  const int64_t process_bytes = ResidentBytes();
  VITSCALE_ASSIGN_OR_RETURN(Stepper stepper, Stepper::Create(options));
  VITSCALE_ASSIGN_OR_RETURN(const Timings timings, TimeSteps(stepper, options.steps));
  VITSCALE_ASSIGN_OR_RETURN(const double loss, stepper.Loss());
  BenchReplica& replica = stepper.replica();
  nlohmann::json report = Describe(options, replica);
  report.update(
      StepReport(timings, static_cast<double>(options.batch), replica.plan.flops.training()));
  report["loss"] = loss;
  AddMemory(replica, process_bytes, report);
  if (options.ceiling) VITSCALE_RETURN_IF_ERROR(AddCeiling(options, replica, report));
  return report;
}

}  // namespace vitscale
