#include "worker/checkpoint/manifest.h"

#include <limits>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/crc32c.h"
#include "kernels/base/status.h"
#include "nlohmann/json.hpp"

namespace vitscale {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 2;     // newest that is read
constexpr int kFormatOne = 1;  // has neither weights_only, train_images nor class_names
constexpr char kChecksumKey[] = "crc32c";

struct PrecisionName {
  link::Precision precision;
  const char* text;
};
constexpr PrecisionName kPrecisions[] = {{link::Precision::kUnspecified, ""},
                                         {link::Precision::kAuto, "auto"},
                                         {link::Precision::kBf16, "bf16"},
                                         {link::Precision::kF32, "f32"}};

const char* TextOf(link::Precision precision) {
  for (const PrecisionName& name : kPrecisions) {
    if (name.precision == precision) return name.text;
  }
  return "";
}

std::string Hex(uint64_t value, int digits) { return absl::StrFormat("%0*x", digits, value); }

std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

constexpr char kResidual[] = "residual", kUsualResidual[] = "f32", kChoices[] = "choices";

// What earlier versions have no word for is said only where it is not as it was for them.
Json NumericsToJson(const link::NumericsRecord& numerics) {
  Json json = {{"backend", numerics.backend},
               {"build", numerics.build},
               {"instruction_set", numerics.instruction_set},
               {"libraries", numerics.libraries},
               {"precision", TextOf(numerics.precision)},
               {"world_size", numerics.world_size},
               {"batch_micro", numerics.batch_micro},
               {"collective", numerics.collective},
               {"bucket_bytes", numerics.bucket_bytes},
               {"recompute", numerics.recompute}};
  if (numerics.residual != kUsualResidual) json[kResidual] = numerics.residual;
  if (!numerics.choices.empty()) json[kChoices] = numerics.choices;
  return json;
}

// Reads the members of one object; remembers the first fault and which members were asked for, so
// that a caller reads all fields in a row and looks at Finish() once.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) Fault("", "is no object");
  }

  // For members that may be absent.
  bool Has(const char* name) const { return object_.is_object() && object_.contains(name); }

  std::string Text(const char* name) {
    const Json* value = Member(name);
    if (value == nullptr) return "";
    if (value->is_string()) return value->get<std::string>();
    Fault(name, "is no string");
    return "";
  }
  int64_t Count(const char* name, int64_t most = std::numeric_limits<int64_t>::max()) {
    const Json* value = Member(name);
    if (value == nullptr) return 0;
    if (value->is_number_unsigned() && value->get<uint64_t>() <= static_cast<uint64_t>(most)) {
      return value->get<int64_t>();
    }
    Fault(name, absl::StrCat("is ", Dump(*value, -1), ", want a number from 0 to ", most));
    return 0;
  }
  uint64_t Unsigned(const char* name) {
    const Json* value = Member(name);
    if (value == nullptr) return 0;
    if (value->is_number_unsigned()) return value->get<uint64_t>();
    Fault(name, "is no number from 0 to 2^64 - 1");
    return 0;
  }
  bool Bool(const char* name) {
    const Json* value = Member(name);
    if (value == nullptr) return false;
    if (value->is_boolean()) return value->get<bool>();
    Fault(name, "is neither true nor false");
    return false;
  }
  uint64_t HexNumber(const char* name, size_t digits) {
    const std::string text = Text(name);
    uint64_t value = 0;
    if (text.size() == digits && absl::SimpleHexAtoi(text, &value) && Hex(value, digits) == text) {
      return value;
    }
    Fault(name, absl::StrCat("is '", text, "', want ", digits, " hex digits"));
    return 0;
  }
  const Json& Object(const char* name) {
    static const Json kEmpty = Json::object();
    const Json* value = Member(name);
    return value == nullptr ? kEmpty : *value;
  }
  void Fault(absl::string_view name, absl::string_view what) {
    if (!status_.ok()) return;
    status_ = absl::DataLossError(absl::StrCat(where_, name, ": ", what));
  }
  // The first fault; a member that nobody asked for is one.
  absl::Status Finish() {
    if (!status_.ok()) return status_;
    for (const auto& [name, value] : object_.items()) {
      if (asked_.count(name) == 0) Fault(name, "is unknown");
    }
    return status_;
  }

 private:
  const Json* Member(const char* name) {
    asked_.insert(name);
    if (!status_.ok()) return nullptr;
    const auto found = object_.find(name);
    if (found != object_.end()) return &*found;
    Fault(name, "is missing");
    return nullptr;
  }

  const Json& object_;
  std::string where_;
  std::set<std::string> asked_;
  absl::Status status_;
};

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();

absl::StatusOr<link::NumericsRecord> NumericsFromJson(const Json& object) {
  Fields fields(object, "numerics.");
  link::NumericsRecord numerics;
  numerics.backend = fields.Text("backend");
  numerics.build = fields.Text("build");
  numerics.instruction_set = fields.Text("instruction_set");
  numerics.libraries = fields.Text("libraries");
  const std::string precision = fields.Text("precision");
  bool known = false;
  for (const PrecisionName& name : kPrecisions) {
    if (precision != name.text) continue;
    numerics.precision = name.precision;
    known = true;
  }
  if (!known) fields.Fault("precision", absl::StrCat("is '", precision, "', want bf16 or f32"));
  numerics.world_size = static_cast<int>(fields.Count("world_size", kInt32Max));
  numerics.batch_micro = static_cast<int>(fields.Count("batch_micro", kInt32Max));
  numerics.collective = fields.Text("collective");
  numerics.bucket_bytes = fields.Count("bucket_bytes");
  numerics.recompute = fields.Text("recompute");
  if (fields.Has(kResidual)) numerics.residual = fields.Text(kResidual);
  if (fields.Has(kChoices)) numerics.choices = fields.Text(kChoices);
  VITSCALE_RETURN_IF_ERROR(fields.Finish());
  return numerics;
}

absl::StatusOr<std::vector<PartFile>> FilesFromJson(const Json& list) {
  if (!list.is_array()) return absl::DataLossError("files: is no list");
  std::vector<PartFile> files;
  std::set<std::string> names;
  for (const Json& object : list) {
    Fields fields(object, absl::StrCat("files[", files.size(), "]."));
    PartFile file;
    file.name = fields.Text("name");
    file.bytes = fields.Count("bytes");
    file.crc32c = static_cast<uint32_t>(fields.HexNumber("crc32c", 8));
    if (file.name.empty() || file.name[0] == '.' || absl::StrContains(file.name, "/")) {
      fields.Fault("name", absl::StrCat("'", file.name, "' is no plain file name"));
    }
    if (!names.insert(file.name).second) fields.Fault("name", "stands twice");
    VITSCALE_RETURN_IF_ERROR(fields.Finish());
    files.push_back(std::move(file));
  }
  return files;
}

// Of all members but the checksum itself, written compactly: layout does not count.
std::string ChecksumOf(Json root) {
  root.erase(kChecksumKey);
  return Hex(Crc32c(Dump(root, -1)), 8);
}

absl::Status CheckEnvelope(const Json& root) {
  if (root.is_discarded() || !root.is_object()) return absl::DataLossError("is no JSON object");
  const auto format = root.find("format");
  if (format == root.end() || !format->is_number_unsigned()) {
    return absl::DataLossError("format: is missing or no number");
  }
  if (format->get<uint64_t>() > kFormat) {
    return absl::UnimplementedError(absl::StrCat("format: is ", format->get<uint64_t>(),
                                                 ", this version reads up to ", kFormat));
  }
  const auto checksum = root.find(kChecksumKey);
  const std::string wanted = ChecksumOf(root);
  if (checksum == root.end() || !checksum->is_string() || checksum->get<std::string>() != wanted) {
    return absl::DataLossError(
        absl::StrCat("crc32c: is ", checksum == root.end() ? "missing" : Dump(*checksum, -1),
                     ", the content wants \"", wanted, "\""));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointManifest> FromFields(const Json& root) {
  Fields fields(root, "");
  CheckpointManifest manifest;
  const bool may_have_more = fields.Unsigned("format") > kFormatOne;
  (void)fields.Text(kChecksumKey);
  manifest.job_id = fields.Text("job_id");
  manifest.name = {fields.Count("attempt"), fields.Count("generation"), fields.Count("step"),
                   fields.Bool("emergency")};
  manifest.lineage = fields.Count("lineage");
  manifest.parent = fields.Text("parent");
  manifest.images = fields.Count("images");
  manifest.digest = fields.HexNumber("digest", 16);
  manifest.seed = fields.Unsigned("seed");
  manifest.plan_hash = fields.HexNumber("plan_hash", 16);
  manifest.spec = fields.Text("spec");
  manifest.version = fields.Text("version");
  manifest.final = fields.Bool("final");
  if (may_have_more && fields.Has("weights_only")) {
    manifest.weights_only = fields.Bool("weights_only");
  }
  if (may_have_more && fields.Has("train_images")) {
    manifest.train_images = fields.Count("train_images");
  }
  if (may_have_more && fields.Has("class_names")) {
    manifest.class_names = fields.HexNumber("class_names", 16);
  }
  std::string error;
  const std::string time = fields.Text("time");
  if (!absl::ParseTime(absl::RFC3339_full, time, &manifest.time, &error)) {
    fields.Fault("time", absl::StrCat("is '", time, "': ", error));
  }
  const Json& numerics = fields.Object("numerics");
  const Json& files = fields.Object("files");
  VITSCALE_RETURN_IF_ERROR(fields.Finish());
  VITSCALE_ASSIGN_OR_RETURN(manifest.numerics, NumericsFromJson(numerics));
  VITSCALE_ASSIGN_OR_RETURN(manifest.files, FilesFromJson(files));
  return manifest;
}

}  // namespace

int64_t CheckpointManifest::total_bytes() const {
  int64_t total = 0;
  for (const PartFile& file : files) total += file.bytes;
  return total;
}

std::string ManifestToJson(const CheckpointManifest& manifest) {
  Json files = Json::array();
  for (const PartFile& file : manifest.files) {
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"crc32c", Hex(file.crc32c, 8)}});
  }
  const bool more = manifest.weights_only || manifest.train_images > 0 || manifest.class_names != 0;
  Json root = {{"format", more ? kFormat : kFormatOne},
               {"job_id", manifest.job_id},
               {"attempt", manifest.name.attempt},
               {"generation", manifest.name.generation},
               {"step", manifest.name.step},
               {"emergency", manifest.name.emergency},
               {"lineage", manifest.lineage},
               {"parent", manifest.parent},
               {"images", manifest.images},
               {"digest", Hex(manifest.digest, 16)},
               {"seed", manifest.seed},
               {"plan_hash", Hex(manifest.plan_hash, 16)},
               {"numerics", NumericsToJson(manifest.numerics)},
               {"spec", manifest.spec},
               {"version", manifest.version},
               {"final", manifest.final},
               {"time", absl::FormatTime(absl::RFC3339_full, manifest.time, absl::UTCTimeZone())},
               {"files", files}};
  if (manifest.weights_only) root["weights_only"] = true;
  if (manifest.train_images > 0) root["train_images"] = manifest.train_images;
  if (manifest.class_names != 0) root["class_names"] = Hex(manifest.class_names, 16);
  root[kChecksumKey] = ChecksumOf(root);
  return Dump(root, 2) + "\n";
}

absl::StatusOr<CheckpointManifest> ManifestFromJson(absl::string_view text) {
  // Copying and writing JSON recurse: what is nested more deeply than a manifest must not get
  // there.
  constexpr int kDeepest = 4;
  bool too_deep = false;
  const auto watch = [&too_deep](int depth, Json::parse_event_t, Json&) {
    too_deep |= depth > kDeepest;
    return !too_deep;
  };
  const Json root = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (too_deep) return absl::DataLossError("manifest: nested too deeply");
  VITSCALE_RETURN_IF_ERROR(Annotate(CheckEnvelope(root), "manifest"));
  auto manifest = FromFields(root);
  if (!manifest.ok()) return Annotate(manifest.status(), "manifest");
  return manifest;
}

link::CheckpointInfo InfoOf(const CheckpointManifest& manifest, const std::string& path) {
  link::CheckpointInfo info;
  info.id = CheckpointId(manifest.job_id, manifest.name);
  info.step = manifest.name.step;
  info.lineage = manifest.lineage;
  info.attempt = manifest.name.attempt;
  info.generation = manifest.name.generation;
  info.bytes = manifest.total_bytes();
  info.digest = Hex(manifest.digest, 16);
  info.path = path;
  info.time = manifest.time;
  info.parent = manifest.parent;
  info.images = manifest.images;
  info.final = manifest.final;
  return info;
}

std::vector<std::string> NumericsDifferences(const link::NumericsRecord& before,
                                             const link::NumericsRecord& now) {
  std::vector<std::string> differences;
  Json old_fields = NumericsToJson(before), new_fields = NumericsToJson(now);
  if (before.choices.empty() || now.choices.empty()) old_fields.erase(kChoices);
  old_fields[kResidual] = before.residual;
  new_fields[kResidual] = now.residual;
  for (const auto& [name, value] : old_fields.items()) {
    if (value == new_fields[name] || name == "recompute") continue;  // decides no bit
    differences.push_back(
        absl::StrCat(name, " ", Dump(value, -1), ", now ", Dump(new_fields[name], -1)));
  }
  return differences;
}

}  // namespace vitscale
