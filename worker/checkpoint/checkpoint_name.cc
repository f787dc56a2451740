#include "worker/checkpoint/checkpoint_name.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr absl::string_view kEmergency = ".emergency";

// Reads digits after `prefix`; any other spelling is caught by comparing with Text().
bool ReadNumber(absl::string_view text, absl::string_view prefix, int64_t* value) {
  return absl::StartsWith(text, prefix) && absl::SimpleAtoi(text.substr(prefix.size()), value) &&
         *value >= 0;
}

}  // namespace

std::string CheckpointName::Text() const {
  return absl::StrFormat("a%04d.g%04d.step_%09d%s", attempt, generation, step,
                         emergency ? kEmergency : "");
}

absl::StatusOr<CheckpointName> CheckpointName::Parse(absl::string_view text) {
  CheckpointName name;
  absl::string_view rest = text;
  if (absl::EndsWith(rest, kEmergency)) {
    name.emergency = true;
    rest.remove_suffix(kEmergency.size());
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(rest, '.');
  const bool good = parts.size() == 3 && ReadNumber(parts[0], "a", &name.attempt) &&
                    ReadNumber(parts[1], "g", &name.generation) &&
                    ReadNumber(parts[2], "step_", &name.step) && name.Text() == text;
  if (good) return name;
  return absl::InvalidArgumentError(
      absl::StrCat("checkpoint name '", text, "', want one like 'a0003.g0007.step_000001000'"));
}

std::string CheckpointId(absl::string_view job_id, const CheckpointName& name) {
  return absl::StrCat(job_id, "/", name.Text());
}

absl::StatusOr<CheckpointIdParts> ParseCheckpointId(absl::string_view id) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(id, absl::MaxSplits('/', 1));
  if (parts.first.empty() || parts.first == "." || parts.first == "..") {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint id '", id, "', want '<job id>/<checkpoint name>'"));
  }
  VITSCALE_ASSIGN_OR_RETURN(const CheckpointName name, CheckpointName::Parse(parts.second));
  return CheckpointIdParts{std::string(parts.first), name};
}

std::string PartFileName(int rank, int world_size) {
  return absl::StrFormat("part-%05d-of-%05d.safetensors", rank, world_size);
}

}  // namespace vitscale
