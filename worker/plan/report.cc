// The plan as text.

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/plan/plan.h"

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
void Memory(std::string& text, absl::string_view name, int64_t bytes) {
  absl::StrAppendFormat(&text, "  %-20s %12s\n", name, HumanBytes(bytes));
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
  Line(text, "FLOPs per image",
       absl::StrFormat("%.4g GF forward (trunk %.4g, as the paper's table 2 counts %.1f), %.4g GF "
                       "training",
                       plan.flops.forward / 1e9, plan.flops.trunk / 1e9,
                       plan.flops.paper_table / 1e9, plan.flops.training() / 1e9));
  Line(text, "batch",
       absl::StrCat(plan.request.batch_global, " images per step in micro-batches of ",
                    plan.request.batch_micro));
  Line(text, "precision",
       absl::StrCat(PrecisionName(plan.request.precision), ", residual stream ",
                    DTypeName(plan.request.model.residual)));
  if (plan.request.training) Line(text, "recompute", RecomputeName(plan.request.recompute));
}

void MemoryLines(std::string& text, const Plan& plan) {
  Line(text, "memory per worker", HumanBytes(plan.memory_bytes()));
  for (int i = 0; i < kArenaCount; ++i) {
    if (plan.arena_bytes[i] > 0)
      Memory(text, ArenaName(static_cast<Arena>(i)), plan.arena_bytes[i]);
  }
  Memory(text, "compute weights", plan.compute_weight_bytes);
  Memory(text, "workspace", plan.workspace_bytes);
  Memory(text, "staged input", plan.staged_input_bytes);
  if (plan.request.training) Memory(text, "copy while saving", plan.checkpoint_bytes);
  Memory(text, "process", kProcessBytes + kRunningBytes);
}

std::string Rates(const Plan& plan, int workers, const MeasuredRates& rates) {
  const double seconds = PredictedStepSeconds(plan, workers, rates);
  if (seconds == 0) return "";
  const double efficiency = PredictedStepSeconds(plan, 1, rates) / (workers * seconds);
  return absl::StrFormat(", step %.4g s, %.5g images/s, efficiency %.1f %%", seconds,
                         plan.request.batch_global / seconds, 100 * efficiency);
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

double PredictedStepSeconds(const Plan& plan, int workers, const MeasuredRates& rates) {
  if (rates.train_flops_per_second <= 0 || workers < 1) return 0;
  if (workers > 1 && rates.wire_bytes_per_second <= 0) return 0;
  // The slowest worker has the most micro-batches.
  const int64_t micro_batches = plan.request.batch_global / plan.request.batch_micro;
  const int64_t images = (micro_batches + workers - 1) / workers * plan.request.batch_micro;
  double seconds =
      static_cast<double>(images) * plan.flops.training() / rates.train_flops_per_second;
  if (workers > 1)
    seconds += static_cast<double>(plan.WireBytes(workers)) / rates.wire_bytes_per_second;
  return seconds;
}

std::string PlanText(const Plan& plan, absl::Span<const int> workers, const MeasuredRates& rates) {
  std::string text;
  ModelLines(text, plan);
  MemoryLines(text, plan);
  if (rates.memory_bytes > 0) {
    const absl::Status fits = CheckFits(plan, rates.memory_bytes);
    Line(text, "fits",
         fits.ok() ? absl::StrCat("yes, of ", HumanBytes(rates.memory_bytes))
                   : absl::StrCat("no: ", std::string(fits.message())));
  }
  Line(text, "checkpoint", HumanBytes(plan.checkpoint_bytes));
  Line(text, "gradient buckets", absl::StrCat(plan.layout.buckets.size()));
  for (int n : workers) {
    Line(text, absl::StrCat(n, n == 1 ? " worker" : " workers"),
         absl::StrCat(HumanBytes(plan.WireBytes(n)), " sent per worker and step",
                      Rates(plan, n, rates)));
  }
  Line(text, "plan hash", absl::StrFormat("%016x", plan.hash));
  return text;
}

}  // namespace vitscale
