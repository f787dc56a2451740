#include "worker/plan/memory_table.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/plan/card_bytes.h"

namespace vitscale {
namespace {

void Line(std::string& text, absl::string_view name, absl::string_view value) {
  absl::StrAppendFormat(&text, "%-22s %s\n", name, value);
}
void Memory(std::string& text, absl::string_view name, int64_t bytes) {
  absl::StrAppendFormat(&text, "  %-20s %12s\n", name, HumanBytes(bytes));
}

void ArenaLines(std::string& text, const Plan& plan) {
  for (int i = 0; i < kArenaCount; ++i) {
    if (plan.arena_bytes[i] > 0)
      Memory(text, ArenaName(static_cast<Arena>(i)), plan.arena_bytes[i]);
  }
  Memory(text, "compute weights", plan.compute_weight_bytes);
}

void LoaderLines(std::string& text, const Plan& plan) {
  Memory(text, "staged input", plan.staged_input_bytes);
  if (plan.request.training) Memory(text, "copy while saving", plan.checkpoint_bytes);
}

void CardLines(std::string& text, const Plan& plan) {
  Line(text, "memory on the card", HumanBytes(plan.card_bytes()));
  ArenaLines(text, plan);
  Memory(text, "workspace", plan.workspace_bytes);
  Memory(text, "CUDA context", kCardContextBytes);
  Line(text, "memory of the host", HumanBytes(plan.host_bytes()));
  Memory(text, "process", kCudaProcessBytes);
  Memory(text, "pinned staging", kPinnedStagingBytes);
  LoaderLines(text, plan);
}

void CpuLines(std::string& text, const Plan& plan) {
  Line(text, "memory per worker", HumanBytes(plan.memory_bytes()));
  ArenaLines(text, plan);
  absl::StrAppendFormat(&text, "    %s; persistent %s, packed per use %s\n",
                        WeightPackingName(plan.request.packing == WeightPacking::kPerUse
                                              ? WeightPacking::kPerUse
                                              : WeightPacking::kPersistent),
                        HumanBytes(plan.persistent_weight_bytes),
                        HumanBytes(plan.per_use_weight_bytes));
  Memory(text, "workspace", plan.workspace_bytes);
  LoaderLines(text, plan);
  Memory(text, "process", kProcessBytes + kRunningBytes);
}

}  // namespace

std::string MemoryTable(const Plan& plan) {
  std::string text;
  if (plan.request.device == DeviceKind::kCuda) {
    CardLines(text, plan);
  } else {
    CpuLines(text, plan);
  }
  return text;
}

absl::Status WithMemoryTable(const absl::Status& status, const Plan& plan) {
  if (!absl::IsResourceExhausted(status)) return status;
  return absl::ResourceExhaustedError(
      absl::StrCat(status.message(), "; planned:\n", MemoryTable(plan)));
}

}  // namespace vitscale
