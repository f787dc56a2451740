#include "worker/plan/schedule.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

double Base(const ScheduleConfig& c, int64_t k) {
  const double rest = static_cast<double>(c.total - c.warmup);
  const double progress =
      rest > 0 ? std::clamp(static_cast<double>(k - c.warmup) / rest, 0.0, 1.0) : 0.0;
  switch (c.kind) {
    case ScheduleKind::kRsqrt: {
      const int64_t past = c.shift + std::max<int64_t>(0, k - c.warmup);
      return 1 / std::sqrt(1 + static_cast<double>(past) / static_cast<double>(c.timescale));
    }
    case ScheduleKind::kCosine:
      return (1 + std::cos(M_PI * progress)) / 2;
    case ScheduleKind::kLinear:
      return 1 - progress;
    case ScheduleKind::kConstant:
      return 1;
  }
  return 1;
}

absl::Status Check(bool good, const char* field, int64_t was, absl::string_view want) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("schedule.", field, " is ", was, " steps, want ", want));
}

}  // namespace

absl::Status ValidateSchedule(const ScheduleConfig& c) {
  VITSCALE_RETURN_IF_ERROR(Check(c.total >= 1, "total", c.total, "at least 1"));
  const std::string to_total = absl::StrCat("0 to total (", c.total, ")");
  VITSCALE_RETURN_IF_ERROR(
      Check(c.warmup >= 0 && c.warmup <= c.total, "warmup", c.warmup, to_total));
  VITSCALE_RETURN_IF_ERROR(
      Check(c.cooldown >= 0 && c.cooldown <= c.total, "cooldown", c.cooldown, to_total));
  if (c.kind != ScheduleKind::kRsqrt) return absl::OkStatus();
  VITSCALE_RETURN_IF_ERROR(Check(c.timescale >= 1, "timescale", c.timescale, "at least 1"));
  return Check(c.shift >= 0, "shift", c.shift, "0 or more");
}

double ScheduleFactor(const ScheduleConfig& c, int64_t k) {
  if (k >= c.total) return 0;
  double factor = Base(c, k);
  if (c.warmup > 0) factor *= std::min(1.0, static_cast<double>(k) / c.warmup);
  if (c.cooldown > 0) factor *= std::min(1.0, static_cast<double>(c.total - k) / c.cooldown);
  return factor;
}

double AdafactorBeta2(int64_t step, double cap) {
  return std::min(cap, 1 - std::pow(static_cast<double>(step + 1), -0.8));
}

}  // namespace vitscale
