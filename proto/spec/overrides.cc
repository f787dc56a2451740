#include "proto/spec/overrides.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "proto/spec/utf8.h"

namespace vitscale {
namespace {

constexpr char kPlace[] = "--set";

void SetPlace(Node* node) {
  node->place = kPlace;
  for (NodeEntry& entry : node->entries) {
    entry.place = kPlace;
    SetPlace(&entry.value);
  }
}

// "evals[0].name" and "evals.0.name" -> {"evals", "0", "name"}. Empty: not a path.
std::vector<std::string> SplitPath(absl::string_view path) {
  const std::string dotted = absl::StrReplaceAll(path, {{"[", "."}, {"]", ""}});
  std::vector<std::string> parts = absl::StrSplit(dotted, '.');
  for (const std::string& part : parts) {
    if (part.empty() || part.find_first_of(" \t\"'") != std::string::npos) return {};
  }
  return parts;
}

// The child of `node` that `part` names, made if it is not there; null where an index is beyond the
// list.
Node* Step(Node* node, const std::string& part, std::string* error) {
  int index = 0;
  const bool number = absl::SimpleAtoi(part, &index) && index >= 0;
  if (number && node->is_null()) node->kind = Node::Kind::kList;
  if (node->is_list()) {
    const int size = static_cast<int>(node->entries.size());
    if (!number || index > size) {
      *error = absl::StrCat("no element \"", part, "\" in a list of ", size);
      return nullptr;
    }
    if (index == size) node->entries.push_back({"", kPlace, Node{}});
    return &node->entries[index].value;
  }
  if (!node->is_map()) {  // a scalar or nothing gives way to a mapping
    *node = Node{};
    node->kind = Node::Kind::kMap;
    node->place = kPlace;
  }
  if (Node* child = node->Find(part); child != nullptr) return child;
  node->entries.push_back({part, kPlace, Node{}});
  return &node->entries.back().value;
}

void MarkKey(Node* parent, const Node* child) {
  for (NodeEntry& entry : parent->entries) {
    if (&entry.value == child) entry.place = kPlace;
  }
}

std::string Apply(const std::vector<std::string>& parts, Node value, Node* root) {
  std::string error;
  Node copy = *root;
  Node* node = &copy;
  for (const std::string& part : parts) {
    Node* child = Step(node, part, &error);
    if (child == nullptr) return error;
    MarkKey(node, child);
    node = child;
  }
  *node = std::move(value);
  *root = std::move(copy);
  return "";
}

}  // namespace

void ApplyOverrides(const std::vector<std::string>& overrides, Node* root,
                    std::vector<Fault>* faults) {
  for (const std::string& text : overrides) {
    if (FirstBadUtf8(text) != absl::string_view::npos) {
      faults->push_back({"", "not UTF-8", kPlace, false});
      continue;
    }
    const size_t equals = text.find('=');
    const auto parts = SplitPath(absl::string_view(text).substr(0, equals));
    if (equals == std::string::npos || parts.empty()) {
      faults->push_back({"", absl::StrCat("was \"", text, "\", wanted path=value, such as seed=2"),
                         kPlace, false});
      continue;
    }
    const std::string path = text.substr(0, equals);
    TreeBuilder builder;
    if (!ReadYaml(text.substr(equals + 1), builder)) {
      faults->push_back({path, builder.faults().front().text, kPlace, false});
      continue;
    }
    Node value = builder.has_root() ? std::move(builder.root()) : Node{};
    SetPlace(&value);
    if (const std::string error = Apply(parts, std::move(value), root); !error.empty()) {
      faults->push_back({path, error, kPlace, false});
    }
  }
}

}  // namespace vitscale
