// The plan as text.

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/plan/machine_rates.h"
#include "worker/plan/memory_table.h"
#include "worker/plan/plan.h"
#include "worker/plan/predict.h"

namespace vitscale {
namespace {

// 1930404761 -> "1,930,404,761"
std::string Grouped(int64_t value) {
  const std::string digits = absl::StrCat(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

void Line(std::string& text, absl::string_view name, absl::string_view value) {
  absl::StrAppendFormat(&text, "%-22s %s\n", name, value);
}

void BatchLines(std::string& text, const Plan& plan) {
  Line(text, "batch",
       absl::StrCat(plan.request.batch_global, " images per step in micro-batches of ",
                    plan.request.batch_micro,
                    plan.layout.head_rows < plan.request.batch_micro
                        ? absl::StrCat(", logits of ", plan.layout.head_rows, " at a time")
                        : ""));
  const int64_t classes = plan.request.model.classes;
  if (plan.layout.logit_columns() != classes) {
    Line(text, "logits",
         absl::StrCat(classes, " classes in rows of ", plan.layout.logit_columns(),
                      ": the padding is in no sum"));
  }
}

void ModelLines(std::string& text, const Plan& plan) {
  const ModelConfig& m = plan.request.model;
  Line(text, "model",
       absl::StrFormat(
           "patch %d, width %d, depth %d, heads %d, mlp %d, %s head, %d classes, %s loss", m.patch,
           m.width, m.depth, m.heads, m.mlp_width, PoolName(m.pool), m.classes, LossName(m.loss)));
  Line(text, "input",
       absl::StrFormat("%dx%dx%d, %d tokens, %s positions", m.image_size, m.image_size, m.channels,
                       m.tokens(), PositionName(m.position)));
  Line(text, "parameters",
       absl::StrCat(Grouped(plan.layout.table.parameter_count()), " (body ",
                    Grouped(plan.layout.table.body_parameter_count()), ")"));
  Line(text, "second moment",
       absl::StrCat(Grouped(plan.layout.table.second_moment_count()), " floats (",
                    OptimizerKindName(plan.request.optimizer), ")"));
  if (plan.request.training) {
    Line(text, "optimizer state",
         absl::StrCat(HumanBytes(plan.optimizer_bytes()), " (Adam's two f32 moments: ",
                      HumanBytes(2 * DTypeBytes(DType::kF32) * plan.layout.table.parameter_count()),
                      ")"));
  }
  Line(text, "FLOPs per image",
       absl::StrFormat("%.4g GF forward (trunk %.4g, as the paper's table 2 counts %.1f), %.4g GF "
                       "training",
                       plan.flops.forward / 1e9, plan.flops.trunk / 1e9,
                       plan.flops.paper_table / 1e9, plan.flops.training() / 1e9));
  BatchLines(text, plan);
  Line(text, "precision",
       absl::StrCat(PrecisionName(plan.request.precision), ", residual stream ",
                    DTypeName(plan.request.model.residual)));
  if (plan.request.training) Line(text, "recompute", RecomputeName(plan.request.recompute));
}

std::string Times(const StepPrediction& step, int64_t total_steps) {
  if (step.seconds <= 0) return ", how fast: not known (no rate of the wire)";
  std::string text = absl::StrFormat(", step %.4g s, %.5g images/s, efficiency %.1f %%",
                                     step.seconds, step.images_per_second, 100 * step.efficiency);
  if (total_steps > 0) {
    absl::StrAppend(&text, ", ", total_steps, " steps in ",
                    HumanSeconds(step.seconds * static_cast<double>(total_steps)));
  }
  return text;
}

void StepLines(std::string& text, const StepPredictor& predictor, const MachineRates& rates) {
  const StepPrediction one = predictor.Predict(1);
  Line(text, "predicted for",
       absl::StrCat(rates.device, ", ", rates.threads, " threads per worker",
                    rates.measured.empty() ? "" : ", measured ", rates.measured));
  Line(text, "predicted step",
       absl::StrFormat("%.4g s per micro-batch (backward %.4g), %.4g s update",
                       one.micro_batch_seconds, one.backward_seconds, one.update_seconds));
}

}  // namespace

std::string HumanBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (std::abs(value) >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.4g %s", value, kUnits[unit]);
}

std::string HumanSeconds(double seconds) {
  if (seconds < 120) return absl::StrFormat("%.3g s", seconds);
  if (seconds < 7200) return absl::StrFormat("%.3g min", seconds / 60);
  if (seconds < 172800) return absl::StrFormat("%.3g h", seconds / 3600);
  return absl::StrFormat("%.4g days", seconds / 86400);
}

std::string PlanText(const Plan& plan, absl::Span<const int> workers,
                     const ReportOptions& options) {
  std::string text;
  ModelLines(text, plan);
  text += MemoryTable(plan);
  if (options.memory_bytes > 0) {
    const absl::Status fits = CheckFits(plan, options.memory_bytes);
    Line(text, "fits",
         fits.ok() ? absl::StrCat("yes, of ", HumanBytes(options.memory_bytes))
                   : absl::StrCat("no: ", std::string(fits.message())));
  }
  Line(text, "checkpoint", HumanBytes(plan.checkpoint_bytes));
  Line(text, "gradient buckets", absl::StrCat(plan.layout.buckets.size()));
  absl::StatusOr<StepPredictor> predictor = absl::NotFoundError("");
  if (options.rates != nullptr) {
    predictor = StepPredictor::Create(plan, *options.rates);
    if (predictor.ok()) StepLines(text, *predictor, *options.rates);
    if (!predictor.ok()) Line(text, "predicted step", predictor.status().message());
  }
  for (int n : workers) {
    const std::string times =
        predictor.ok()
            ? Times(predictor->Predict(n, options.wire_bytes_per_second), options.total_steps)
            : "";
    Line(text, absl::StrCat(n, n == 1 ? " worker" : " workers"),
         absl::StrCat(HumanBytes(plan.WireBytes(n)), " sent per worker and step", times));
  }
  Line(text, "plan hash", absl::StrFormat("%016x", plan.hash));
  return text;
}

}  // namespace vitscale
