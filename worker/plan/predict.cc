#include "worker/plan/predict.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/model/vit.h"

namespace vitscale {
namespace {

// Seconds of the ops before and after the marker that begins `phase`.
struct Halves {
  double before = 0, after = 0;
};
Halves SecondsOf(Program program, const char* phase, const Plan& plan, const MachineRates& rates) {
  Halves seconds;
  bool passed = false;
  for (Op& op : program.mutable_ops()) {
    if (const auto* marker = std::get_if<PhaseArgs>(&op)) passed = passed || marker->name == phase;
    const OpCost cost = CostOf(op);
    if (cost.flops == 0 && cost.bytes == 0) continue;
    (passed ? seconds.after : seconds.before) +=
        rates.Seconds(plan.request.precision, OpName(op), plan.request.model.width, cost);
  }
  return seconds;
}

double Total(const Halves& halves) { return halves.before + halves.after; }

}  // namespace

absl::StatusOr<StepPredictor> StepPredictor::Create(const Plan& plan, const MachineRates& rates) {
  if (plan.request.device == DeviceKind::kCuda) {
    return absl::FailedPreconditionError(
        absl::StrCat("not known for a card: the rates are those of a CPU",
                     rates.device.empty() ? "" : absl::StrCat(" (", rates.device, ")")));
  }
  if (!rates.Knows(plan.request.precision)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the rates know no ops in ", PrecisionName(plan.request.precision),
                     ": measure again with `vitscale-bench probe`"));
  }
  OptimizerConfig optimizer;
  optimizer.kind = plan.request.optimizer;
  StepPredictor p;
  p.batch_global_ = plan.request.batch_global;
  p.batch_micro_ = plan.request.batch_micro;
  p.buckets_ = std::max<int64_t>(1, static_cast<int64_t>(plan.layout.buckets.size()));
  p.gradient_bytes_ = static_cast<double>(plan.gradient_bytes);
  p.wire_bytes_per_second_ = rates.wire_bytes_per_second;
  const Halves step = SecondsOf(BuildStep(plan.layout, {}), "backward", plan, rates);
  p.forward_ = step.before;
  p.backward_ = step.after;
  p.update_ = Total(SecondsOf(BuildUpdate(plan.layout, optimizer), "", plan, rates));
  return p;
}

StepPrediction StepPredictor::Alone(int workers) const {
  StepPrediction p;
  p.workers = workers;
  const int64_t micro_batches = batch_global_ / batch_micro_;
  const int64_t mine = (micro_batches + workers - 1) / workers;
  p.micro_batch_seconds = forward_ + backward_;
  p.backward_seconds = backward_;
  p.update_seconds = update_;
  p.seconds = static_cast<double>(mine) * p.micro_batch_seconds + update_;
  return p;
}

StepPrediction StepPredictor::Predict(int workers, double wire_bytes_per_second) const {
  StepPrediction p = Alone(std::max(1, workers));
  if (p.workers > 1) {
    const double rate = wire_bytes_per_second > 0 ? wire_bytes_per_second : wire_bytes_per_second_;
    if (rate <= 0) {
      p.seconds = 0;
      return p;
    }
    const double sent = 2.0 * (p.workers - 1) / p.workers * gradient_bytes_;
    p.wire_seconds = sent / rate;
    // The last bucket is ready when backward ends; with a slow wire it is the first that counts.
    const double share = 1.0 / static_cast<double>(buckets_);
    p.exposed_seconds =
        std::max(share * p.wire_seconds, p.wire_seconds - (1 - share) * p.backward_seconds);
    p.seconds += p.exposed_seconds;
  }
  p.images_per_second = static_cast<double>(batch_global_) / p.seconds;
  p.efficiency = Alone(1).seconds / (p.workers * p.seconds);
  return p;
}

}  // namespace vitscale
