#include "worker/collective/control_record.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vitscale {

std::string DebugString(const ControlRecord& record) {
  std::vector<std::string> parts = {
      absl::StrCat("rank ", record.rank, " of ", record.world_size),
      absl::StrCat("job ", absl::Hex(record.job_hash, absl::kZeroPad16)),
      absl::StrCat("attempt ", record.attempt),
      absl::StrCat("generation ", record.generation),
      absl::StrCat("step ", record.step),
      absl::StrCat("plan ", absl::Hex(record.plan_hash, absl::kZeroPad16))};
  constexpr std::pair<RecordFlag, const char*> kNames[] = {
      {RecordFlag::kStop, "stop"},       {RecordFlag::kCheckpoint, "checkpoint"},
      {RecordFlag::kRegroup, "regroup"}, {RecordFlag::kNonFinite, "non-finite"},
      {RecordFlag::kClosing, "closing"}, {RecordFlag::kHasDigest, "digest"}};
  for (const auto& [flag, name] : kNames) {
    if (record.has(flag)) parts.push_back(name);
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace vitscale
