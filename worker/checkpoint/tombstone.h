// The file that opens a lineage ("lineage_0002.json") and thereby abandons what came after the
// parent's step.

#ifndef WORKER_CHECKPOINT_TOMBSTONE_H_
#define WORKER_CHECKPOINT_TOMBSTONE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/checkpoint/retention.h"

namespace vitscale {

std::string TombstoneName(int64_t lineage);
bool IsTombstoneName(absl::string_view name);  // "lineage_….json"

std::string TombstoneToJson(const LineageTombstone& tombstone);
// DATA_LOSS for anything that TombstoneToJson does not write.
absl::StatusOr<LineageTombstone> TombstoneFromJson(absl::string_view text);

}  // namespace vitscale

#endif  // WORKER_CHECKPOINT_TOMBSTONE_H_
