#include "proto/spec/job_spec.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/spec/bind.h"
#include "proto/spec/defaults.h"
#include "proto/spec/message_text.h"
#include "proto/spec/node.h"
#include "proto/spec/overrides.h"
#include "proto/spec/rules.h"
#include "proto/spec/utf8.h"

namespace vitscale {
namespace {

constexpr char kNoun[] = "job spec";

// A line such as "model {": neither YAML nor JSON has that.
bool OpensMessage(absl::string_view line) {
  line = absl::StripAsciiWhitespace(line);
  if (!absl::ConsumeSuffix(&line, "{") && line.find('{') == absl::string_view::npos) return false;
  line = line.substr(0, line.find('{'));
  line = absl::StripAsciiWhitespace(line);
  return !line.empty() && std::all_of(line.begin(), line.end(),
                                      [](char c) { return absl::ascii_isalnum(c) || c == '_'; });
}

SpecFormat GuessFormat(absl::string_view text) {
  const absl::string_view start = absl::StripLeadingAsciiWhitespace(text);
  if (absl::StartsWith(start, "{")) return SpecFormat::kJson;
  for (const absl::string_view line : absl::StrSplit(start, '\n')) {
    if (OpensMessage(line)) return SpecFormat::kTextproto;
  }
  return SpecFormat::kYaml;
}

bool ReadTree(absl::string_view text, SpecFormat format, TreeBuilder& builder) {
  switch (format) {
    case SpecFormat::kJson:
      return ReadJson(text, builder);
    case SpecFormat::kTextproto:
      return ReadTextproto(text, builder);
    default:
      return ReadYaml(text, builder);
  }
}

// Faults of a spec whose defaults are filled.
std::vector<Fault> CheckFilled(const v1::JobSpec& spec) {
  Checker c;
  CheckGenerally(spec, "", &c);
  CheckHead(spec, &c);
  CheckStart(spec, &c);
  CheckModel(spec.model(), &c);
  CheckPreprocess("data.preprocess", spec.data().preprocess(), /*random_allowed=*/true,
                  spec.data().train(), spec.model(), &c);
  if (spec.kind() != v1::JOB_KIND_EVALUATE) {
    CheckSource(spec.data().train(), "data.train", &c);
    CheckOptimizer(spec.optimizer(), &c);
    CheckSchedule(spec.schedule(), spec.batch().global(), &c);
  }
  CheckEvals(spec, &c);
  CheckSaving(spec, &c);
  return c.faults;
}

bool IsBelow(absl::string_view path, absl::string_view other) {
  return absl::ConsumePrefix(&path, other) &&
         (path.empty() || path.front() == '.' || path.front() == '[');
}

// Rules may repeat in other words what the binder has said of the same field, or of a part of it.
void AddNewFaults(const Places& places, std::vector<Fault> more, std::vector<Fault>* faults) {
  const size_t bound = faults->size();
  for (Fault& fault : more) {
    bool said = false;
    for (size_t i = 0; i < bound; ++i) {
      const std::string& field = (*faults)[i].field;
      said =
          said || (!field.empty() && (IsBelow(fault.field, field) || IsBelow(field, fault.field)));
    }
    if (said) continue;
    absl::string_view text = fault.text;
    const auto place = places.find(fault.field);
    if (place != places.end()) {
      fault.place = place->second;
    } else if (absl::ConsumePrefix(&text, "was 0, ")) {  // a required number that nobody gave
      fault.text = absl::StrCat("is missing, ", text);
    }
    faults->push_back(std::move(fault));
  }
}

}  // namespace

SpecFormat FormatOfPath(absl::string_view path) {
  const std::string lower = absl::AsciiStrToLower(path);
  if (absl::EndsWith(lower, ".json")) return SpecFormat::kJson;
  if (absl::EndsWith(lower, ".yaml") || absl::EndsWith(lower, ".yml")) return SpecFormat::kYaml;
  for (const char* ending : {".textproto", ".txtpb", ".pbtxt"}) {
    if (absl::EndsWith(lower, ending)) return SpecFormat::kTextproto;
  }
  return SpecFormat::kAuto;
}

absl::StatusOr<v1::JobSpec> ParseJobSpec(absl::string_view text, SpecFormat format,
                                         const std::vector<std::string>& overrides) {
  if (text.size() > kSpecBytesMax) {
    return FaultsToStatus(
        kNoun,
        {{"", absl::StrCat("was ", text.size(), " bytes long, wanted at most ", kSpecBytesMax), "",
          false}});
  }
  if (const size_t bad = FirstBadUtf8(text); bad != absl::string_view::npos) {
    const auto line =
        std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(bad), '\n') + 1;
    return FaultsToStatus(kNoun, {{"", "not UTF-8", LinePlace(static_cast<int>(line)), false}});
  }
  if (format == SpecFormat::kAuto) format = GuessFormat(text);
  TreeBuilder builder(/*repeat_makes_list=*/format == SpecFormat::kTextproto);
  if (!ReadTree(text, format, builder)) return FaultsToStatus(kNoun, builder.faults());
  Node root = builder.has_root() ? std::move(builder.root()) : Node{};
  if (root.is_null()) root.kind = Node::Kind::kMap;
  std::vector<Fault> faults = std::move(builder.faults());
  if (!root.is_map()) {
    faults.push_back(
        {"",
         absl::StrCat("was ", DescribeNode(root), ", wanted a mapping such as \"name: my-job\""),
         root.place, false});
    return FaultsToStatus(kNoun, faults);
  }
  ApplyOverrides(overrides, &root, &faults);
  v1::JobSpec spec;
  Places places;
  BindMessage(root, &spec, &places, &faults);
  v1::JobSpec filled = spec;
  FillDefaults(&places, &filled);
  AddNewFaults(places, CheckFilled(filled), &faults);
  if (!faults.empty()) return FaultsToStatus(kNoun, faults);
  return spec;
}

std::vector<Fault> Validate(const v1::JobSpec& spec) {
  v1::JobSpec filled = spec;
  FillDefaults(nullptr, &filled);
  return CheckFilled(filled);
}

absl::StatusOr<v1::JobSpec> Canonicalize(const v1::JobSpec& spec) {
  v1::JobSpec filled = spec;
  FillDefaults(nullptr, &filled);
  const std::vector<Fault> faults = CheckFilled(filled);
  if (!faults.empty()) return FaultsToStatus(kNoun, faults);
  NormaliseText(&filled);
  return filled;
}

std::string SpecBytes(const v1::JobSpec& spec) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    spec.SerializeToCodedStream(&coded);
  }
  return bytes;
}

std::string ToYaml(const v1::JobSpec& spec) { return MessageToYaml(spec); }

}  // namespace vitscale
