#include "proto/spec/difference.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "proto/spec/node.h"

namespace vitscale {
namespace {

using Fields = std::map<std::string, std::string>;  // by path

void Flatten(const Node& node, const std::string& path, Fields* fields) {
  if (!node.is_list() && !node.is_map()) {
    if (node.is_scalar()) (*fields)[path] = node.text;
    return;
  }
  int index = 0;
  for (const NodeEntry& entry : node.entries) {
    const std::string child = node.is_list() ? absl::StrCat(path, "[", index++, "]")
                              : path.empty() ? entry.key
                                             : absl::StrCat(path, ".", entry.key);
    Flatten(entry.value, child, fields);
  }
}

absl::StatusOr<Fields> FieldsOf(absl::string_view text) {
  TreeBuilder builder;
  if (!ReadYaml(text, builder)) {
    return absl::InvalidArgumentError(absl::StrCat("job file: ", builder.faults().front().text));
  }
  Fields fields;
  if (builder.has_root()) Flatten(builder.root(), "", &fields);
  return fields;
}

std::string ValueIn(const Fields& fields, const std::string& path) {
  const auto found = fields.find(path);
  if (found == fields.end()) return "not given";
  return found->second.empty() ? "\"\"" : found->second;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SpecDifferences(absl::string_view before,
                                                         absl::string_view now) {
  const auto old_fields = FieldsOf(before), new_fields = FieldsOf(now);
  if (!old_fields.ok()) return old_fields.status();
  if (!new_fields.ok()) return new_fields.status();
  Fields all = *old_fields;
  all.insert(new_fields->begin(), new_fields->end());
  std::vector<std::string> differences;
  for (const auto& [path, ignored] : all) {
    const std::string was = ValueIn(*old_fields, path), is = ValueIn(*new_fields, path);
    if (was != is) differences.push_back(absl::StrCat(path, ": was ", was, ", is ", is));
  }
  return differences;
}

}  // namespace vitscale
