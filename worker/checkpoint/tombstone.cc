#include "worker/checkpoint/tombstone.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace vitscale {
namespace {

using Json = nlohmann::ordered_json;

bool ReadCount(const Json& root, const char* name, int64_t* value) {
  const auto found = root.find(name);
  if (found == root.end() || !found->is_number_unsigned()) return false;
  *value = found->get<int64_t>();
  return *value >= 0;
}

bool ReadText(const Json& root, const char* name, std::string* text) {
  const auto found = root.find(name);
  if (found == root.end() || !found->is_string()) return false;
  *text = found->get<std::string>();
  return true;
}

}  // namespace

std::string TombstoneName(int64_t lineage) { return absl::StrFormat("lineage_%04d.json", lineage); }

bool IsTombstoneName(absl::string_view name) {
  return absl::StartsWith(name, "lineage_") && absl::EndsWith(name, ".json");
}

std::string TombstoneToJson(const LineageTombstone& tombstone) {
  const Json root = {
      {"lineage", tombstone.lineage},
      {"step", tombstone.step},
      {"parent", tombstone.parent},
      {"time", absl::FormatTime(absl::RFC3339_full, tombstone.time, absl::UTCTimeZone())}};
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<LineageTombstone> TombstoneFromJson(absl::string_view text) {
  const Json root = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  LineageTombstone tombstone;
  std::string time, error;
  const bool good = root.is_object() && root.size() == 4 &&
                    ReadCount(root, "lineage", &tombstone.lineage) &&
                    ReadCount(root, "step", &tombstone.step) &&
                    ReadText(root, "parent", &tombstone.parent) && ReadText(root, "time", &time) &&
                    absl::ParseTime(absl::RFC3339_full, time, &tombstone.time, &error);
  if (good) return tombstone;
  return absl::DataLossError("tombstone: want an object of lineage, step, parent and time");
}

}  // namespace vitscale
