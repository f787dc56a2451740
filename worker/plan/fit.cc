// What fits into a worker's memory, and the smallest change that would.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "worker/plan/placements.h"
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
  if (memory_bytes == 0) return true;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(request));
  if (plan.memory_bytes() <= memory_bytes) return true;
  if (request.packing != WeightPacking::kAuto) return false;
  PlanRequest least = request;
  least.packing = WeightPacking::kPerUse;
  return Fits(least, memory_bytes);
}

// The first of `micro_batches` that fits; 0 if none does.
absl::StatusOr<int64_t> FirstThatFits(PlanRequest request,
                                      const std::vector<int64_t>& micro_batches,
                                      int64_t memory_bytes) {
  for (int64_t micro : micro_batches) {
    request.batch_micro = micro;
    VITSCALE_ASSIGN_OR_RETURN(const bool fits, Fits(request, memory_bytes));
    if (fits) return micro;
  }
  return 0;
}

// Levels that the request leaves open, the cheapest first.
std::vector<RecomputeLevel> OpenLevels(const PlanRequest& request) {
  if (request.recompute != RecomputeLevel::kAuto || !request.training) return {request.recompute};
  if (request.device == DeviceKind::kCpu) {
    return {RecomputeLevel::kGeluAndLayerNorm, RecomputeLevel::kBlock};
  }
  return {RecomputeLevel::kNone, RecomputeLevel::kGeluAndLayerNorm, RecomputeLevel::kBlock};
}

// ---- changes -----------------------------------------------------------------

// Walks away from a request that does not fit, in steps of growing cost, and says what it changed.
class Change {
 public:
  Change(PlanRequest request, int64_t memory_bytes)
      : request_(std::move(request)), memory_bytes_(memory_bytes) {}

  // Empty if nothing helps; `least` is then all that was left out.
  absl::StatusOr<std::string> Find() {
    const RecomputeLevel given = request_.recompute;
    const bool trains = request_.training;
    if (trains && given == RecomputeLevel::kNone) Recompute(RecomputeLevel::kGeluAndLayerNorm);
    VITSCALE_RETURN_IF_ERROR(TryMicroBatches());
    if (trains && given != RecomputeLevel::kBlock) Recompute(RecomputeLevel::kBlock);
    VITSCALE_RETURN_IF_ERROR(TryMicroBatches());
    if (request_.model.residual == DType::kF32) Residual();
    VITSCALE_RETURN_IF_ERROR(TryMicroBatches());
    if (request_.polyak) Polyak();
    VITSCALE_RETURN_IF_ERROR(TryMicroBatches());
    if (request_.precision == Precision::kF32) Bf16();
    VITSCALE_RETURN_IF_ERROR(TryMicroBatches());
    if (trains && request_.optimizer == OptimizerKind::kAdamW) Adafactor();
    VITSCALE_RETURN_IF_ERROR(TryMicroBatches());
    return found_;
  }
  const PlanRequest& least() const { return request_; }

 private:
  void Recompute(RecomputeLevel level) {
    request_.recompute = level;
    recompute_ = absl::StrCat("recompute ", RecomputeName(level));
  }
  void Residual() {
    request_.model.residual = DType::kBf16;
    others_.push_back("model.residual bf16");
  }
  void Polyak() {
    request_.polyak = false;
    others_.push_back("no Polyak average");
  }
  void Bf16() {
    request_.precision = Precision::kBf16;
    others_.push_back("precision bf16");
  }
  void Adafactor() {
    request_.optimizer = OptimizerKind::kAdafactor;
    others_.push_back("optimizer.name adafactor");
  }

  absl::Status TryMicroBatches() {
    if (!found_.empty()) return absl::OkStatus();
    VITSCALE_ASSIGN_OR_RETURN(
        const int64_t micro,
        FirstThatFits(request_, Divisors(request_.batch_global, request_.batch_micro),
                      memory_bytes_));
    if (micro == 0) return absl::OkStatus();
    std::vector<std::string> parts = others_;
    if (!recompute_.empty()) parts.push_back(recompute_);
    if (micro != request_.batch_micro) parts.push_back(absl::StrCat("batch.micro ", micro));
    found_ = absl::StrJoin(parts, ", ");
    return absl::OkStatus();
  }

  PlanRequest request_;
  const int64_t memory_bytes_;
  std::string recompute_, found_;
  std::vector<std::string> others_;
};

absl::StatusOr<std::string> SmallestChange(const PlanRequest& request, int64_t memory_bytes) {
  Change change(request, memory_bytes);
  VITSCALE_ASSIGN_OR_RETURN(const std::string found, change.Find());
  if (!found.empty()) return found;
  PlanRequest least = change.least();
  least.batch_micro = 1;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(least));
  return absl::StrCat(
      "a smaller model, or a ", request.device == DeviceKind::kCuda ? "card" : "worker", " with ",
      HumanBytes(plan.memory_bytes()), " (batch.micro 1 and whatever else saves memory)");
}

absl::Status CheckDeal(const PlanRequest& request, int workers) {
  if (request.batch_global < 1 || workers < 1) {
    return absl::InvalidArgumentError(absl::StrCat("batch.global is ", request.batch_global,
                                                   " for ", workers,
                                                   " workers, want both at least 1"));
  }
  if (request.batch_global < workers) {
    return absl::InvalidArgumentError(absl::StrCat("batch.global is ", request.batch_global,
                                                   ", want at least one image for each of ",
                                                   workers, " workers"));
  }
  return absl::OkStatus();
}

// ChooseMicroBatch among those of at most `most` images.
absl::StatusOr<int64_t> ChooseUpTo(int64_t most, const PlanRequest& request, int workers,
                                   int64_t memory_bytes) {
  VITSCALE_RETURN_IF_ERROR(CheckDeal(request, workers));
  std::vector<int64_t> divisors = Divisors(request.batch_global, most);
  std::erase_if(divisors, [&](int64_t d) {
    return !DealsOut(request.batch_global / d, request.batch_global, workers);
  });
  PlanRequest trial = request;
  int64_t best = 0;
  for (RecomputeLevel level : OpenLevels(request)) {
    trial.recompute = level;
    VITSCALE_ASSIGN_OR_RETURN(const int64_t micro, FirstThatFits(trial, divisors, memory_bytes));
    best = std::max(best, micro);
    if (best >= std::min(MicroBatchEnough(request), divisors.front())) break;
  }
  if (best > 0) return best;
  trial.batch_micro = 1;
  VITSCALE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(trial));
  return CheckFits(plan, memory_bytes);
}

}  // namespace

int64_t MicroBatchEnough(const PlanRequest& request) {
  constexpr int64_t kPanels = 8, kTiles = 132, kTileElements = int64_t{128} * 256;
  if (request.device == DeviceKind::kCpu) return kPanels;
  const int64_t elements = request.model.tokens() * int64_t{request.model.width};
  return std::min(kMicroBatchMax, (kTiles * kTileElements + elements - 1) / elements);
}

absl::Status CheckFits(const Plan& plan, int64_t memory_bytes) {
  if (plan.memory_bytes() <= memory_bytes) return absl::OkStatus();
  VITSCALE_ASSIGN_OR_RETURN(const std::string change, SmallestChange(plan.request, memory_bytes));
  return absl::ResourceExhaustedError(
      absl::StrCat("plan needs ", HumanBytes(plan.memory_bytes()),
                   plan.request.device == DeviceKind::kCuda ? " on the card" : " per worker",
                   " with batch.micro ", plan.request.batch_micro, ", there are ",
                   HumanBytes(memory_bytes), "; smallest change that fits: ", change));
}

absl::StatusOr<RecomputeLevel> ChooseRecompute(const PlanRequest& request, int64_t memory_bytes) {
  PlanRequest trial = request;
  for (RecomputeLevel level : OpenLevels(request)) {
    trial.recompute = level;
    VITSCALE_ASSIGN_OR_RETURN(const bool fits, Fits(trial, memory_bytes));
    if (fits) break;
  }
  return trial.recompute;
}

absl::StatusOr<WeightPacking> ChoosePacking(const PlanRequest& request, int64_t memory_bytes) {
  if (request.packing != WeightPacking::kAuto) return request.packing;
  PlanRequest trial = request;
  trial.packing = WeightPacking::kPersistent;
  VITSCALE_ASSIGN_OR_RETURN(const bool persistent, Fits(trial, memory_bytes));
  if (persistent) return trial.packing;
  trial.packing = WeightPacking::kPerUse;
  VITSCALE_ASSIGN_OR_RETURN(const bool per_use, Fits(trial, memory_bytes));
  return per_use ? WeightPacking::kPerUse : WeightPacking::kPersistent;
}

absl::StatusOr<int64_t> ChooseMicroBatch(const PlanRequest& request, int workers,
                                         int64_t memory_bytes) {
  return ChooseUpTo(kMicroBatchMax, request, workers, memory_bytes);
}

// Everybody is asked until all in a row have taken the same one. It shrinks with every change.
absl::StatusOr<int64_t> ChooseMicroBatch(absl::Span<const Placement> placements, int workers) {
  int64_t most = kMicroBatchMax;
  for (size_t i = 0, agreed = 0; agreed < placements.size(); ++i) {
    const Placement& next = placements[i % placements.size()];
    const auto micro = ChooseUpTo(most, next.request, workers, next.memory_bytes);
    if (absl::IsResourceExhausted(micro.status())) return Annotate(micro.status(), next.name);
    if (!micro.ok()) return micro.status();
    agreed = *micro == most ? agreed + 1 : 1;
    most = *micro;
  }
  return most;
}

}  // namespace vitscale
