// What fits into a worker's memory, and the smallest change that would.

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "worker/plan/plan.h"

namespace vitscale {
namespace {

// Divisors of n that are at most `most`, greatest first.
std::vector<int64_t> Divisors(int64_t n, int64_t most) {
  std::vector<int64_t> divisors;
  for (int64_t d = std::min(n, most); d >= 1; --d) {
    if (n % d == 0) divisors.push_back(d);
  }
  return divisors;
}

// Every worker gets as many micro-batches as the others, or at least one where that cannot be.
bool DealsOut(int64_t micro_batches, int64_t batch_global, int workers) {
  if (batch_global % workers == 0) return micro_batches % workers == 0;
  return micro_batches >= workers;
}

absl::StatusOr<bool> Fits(const PlanRequest& request, int64_t memory_bytes) {
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
  return plan.memory_bytes() <= memory_bytes;
}

// The greatest micro-batch below that of `request` that fits; 0 if none does.
absl::StatusOr<int64_t> SmallerMicroBatch(PlanRequest request, int64_t memory_bytes) {
  for (int64_t d : Divisors(request.batch_global, request.batch_micro - 1)) {
    request.batch_micro = d;
    VITSCALE_ASSIGN_OR_RETURN(const bool fits, Fits(request, memory_bytes));
    if (fits) return d;
  }
  return 0;
}

// With one image at a time: what else could be left out. Empty if nothing helps.
absl::StatusOr<std::string> OtherChange(PlanRequest request, int64_t memory_bytes) {
  request.batch_micro = 1;
  if (request.polyak) {
    request.polyak = false;
    VITSCALE_ASSIGN_OR_RETURN(const bool fits, Fits(request, memory_bytes));
    if (fits) return std::string("no Polyak average and batch.micro 1");
  }
  if (request.precision == Precision::kF32) {
    request.precision = Precision::kBf16;
    VITSCALE_ASSIGN_OR_RETURN(const bool fits, Fits(request, memory_bytes));
    if (fits) return std::string("precision bf16 and batch.micro 1");
  }
  if (request.optimizer == OptimizerKind::kAdamW) {
    request.optimizer = OptimizerKind::kAdafactor;
    VITSCALE_ASSIGN_OR_RETURN(const bool fits, Fits(request, memory_bytes));
    if (fits) return std::string("optimizer.name adafactor, precision bf16 and batch.micro 1");
  }
  return std::string();
}

absl::StatusOr<std::string> SmallestChange(const PlanRequest& request, int64_t memory_bytes) {
  VITSCALE_ASSIGN_OR_RETURN(const int64_t micro, SmallerMicroBatch(request, memory_bytes));
  if (micro > 0) return absl::StrCat("batch.micro ", micro);
  VITSCALE_ASSIGN_OR_RETURN(const std::string other, OtherChange(request, memory_bytes));
  if (!other.empty()) return other;
  PlanRequest least = request;
  least.batch_micro = 1;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(least));
  return absl::StrCat("a smaller model, or a worker with ", HumanBytes(plan.memory_bytes()),
                      " (batch.micro 1)");
}

}  // namespace

absl::Status CheckFits(const Plan& plan, int64_t memory_bytes) {
  if (plan.memory_bytes() <= memory_bytes) return absl::OkStatus();
  VITSCALE_ASSIGN_OR_RETURN(const std::string change, SmallestChange(plan.request, memory_bytes));
  return absl::ResourceExhaustedError(
      absl::StrCat("plan needs ", HumanBytes(plan.memory_bytes()), " per worker with batch.micro ",
                   plan.request.batch_micro, ", there are ", HumanBytes(memory_bytes),
                   "; smallest change that fits: ", change));
}

absl::StatusOr<int64_t> ChooseMicroBatch(const PlanRequest& request, int workers,
                                         int64_t memory_bytes) {
  PlanRequest trial = request;
  if (trial.batch_global < 1 || workers < 1) {
    return absl::InvalidArgumentError(absl::StrCat("batch.global is ", trial.batch_global, " for ",
                                                   workers, " workers, want both at least 1"));
  }
  if (trial.batch_global < workers) {
    return absl::InvalidArgumentError(absl::StrCat("batch.global is ", trial.batch_global,
                                                   ", want at least one image for each of ",
                                                   workers, " workers"));
  }
  for (int64_t d : Divisors(trial.batch_global, kMicroBatchMax)) {
    if (!DealsOut(trial.batch_global / d, trial.batch_global, workers)) continue;
    if (memory_bytes == 0) return d;
    trial.batch_micro = d;
    VITSCALE_ASSIGN_OR_RETURN(const bool fits, Fits(trial, memory_bytes));
    if (fits) return d;
  }
  trial.batch_micro = 1;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(trial));
  return CheckFits(plan, memory_bytes);
}

}  // namespace vitscale
