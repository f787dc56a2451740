#include "proto/spec/node.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace vitscale {

Node* Node::Find(absl::string_view key) {
  for (NodeEntry& entry : entries) {
    if (is_map() && entry.key == key) return &entry.value;
  }
  return nullptr;
}

std::string LinePlace(int line) { return line > 0 ? absl::StrCat("line ", line) : ""; }

std::string DescribeNode(const Node& node) {
  constexpr size_t kShown = 60;
  switch (node.kind) {
    case Node::Kind::kNull:
      return "nothing";
    case Node::Kind::kList:
      return "a list";
    case Node::Kind::kMap:
      return "a mapping";
    case Node::Kind::kScalar:
      break;
  }
  const std::string shown =
      node.text.size() > kShown ? absl::StrCat(node.text.substr(0, kShown), "…") : node.text;
  return absl::StrCat("\"", shown, "\"");
}

int64_t CountNodes(const Node& node) {
  int64_t count = 1;
  for (const NodeEntry& entry : node.entries) {
    count += CountNodes(entry.value);
  }
  return count;
}

void TreeBuilder::Fail(int line, std::string text) {
  if (!failed_) {
    faults_.push_back({"", std::move(text), LinePlace(line), false});
  }
  failed_ = true;
}

bool TreeBuilder::Count(int line, int64_t nodes) {
  nodes_ += nodes;
  if (nodes_ > kSpecNodesMax) {
    Fail(line, absl::StrCat("has more than ", kSpecNodesMax, " values, aliases included"));
  }
  return !failed_;
}

void TreeBuilder::Null(int line, uint64_t anchor) {
  Node node;
  node.place = LinePlace(line);
  if (Count(line, 1)) Emit(std::move(node), anchor);
}

void TreeBuilder::Scalar(int line, std::string text, bool quoted, uint64_t anchor) {
  if (text.size() > kSpecScalarBytesMax) {
    Fail(line,
         absl::StrCat("a value of ", text.size(), " bytes, wanted at most ", kSpecScalarBytesMax));
  }
  if (!Count(line, 1)) return;
  Node node;
  node.kind = Node::Kind::kScalar;
  node.text = std::move(text);
  node.quoted = quoted;
  node.place = LinePlace(line);
  Emit(std::move(node), anchor);
}

void TreeBuilder::Alias(int line, uint64_t anchor) {
  const auto it = anchors_.find(anchor);
  if (it == anchors_.end()) {
    Fail(line, "an alias inside the value that it stands for");
    return;
  }
  if (Count(line, CountNodes(it->second))) Emit(it->second, 0);
}

void TreeBuilder::Begin(Node::Kind kind, int line, uint64_t anchor) {
  if (stack_.size() >= static_cast<size_t>(kSpecDepthMax)) {
    Fail(line, absl::StrCat("is nested deeper than ", kSpecDepthMax, " levels"));
  }
  if (!Count(line, 1)) return;
  Frame frame;
  frame.node.kind = kind;
  frame.node.place = LinePlace(line);
  frame.anchor = anchor;
  stack_.push_back(std::move(frame));
}

void TreeBuilder::End() {
  if (failed_) return;
  Frame frame = std::move(stack_.back());
  stack_.pop_back();
  Emit(std::move(frame.node), frame.anchor);
}

void TreeBuilder::Key(int line, std::string key) {
  if (failed_) return;
  Frame& frame = stack_.back();
  frame.key = std::move(key);
  frame.key_place = LinePlace(line);
  frame.has_key = true;
}

void TreeBuilder::Emit(Node node, uint64_t anchor) {
  if (failed_) return;
  if (anchor != 0) {
    anchors_[anchor] = node;
  }
  if (stack_.empty()) {
    root_ = std::move(node);
    has_root_ = true;
    return;
  }
  Frame& frame = stack_.back();
  if (frame.node.is_list()) {
    std::string place = node.place;
    frame.node.entries.push_back({"", std::move(place), std::move(node)});
  } else if (!frame.has_key) {  // YAML: the first of a pair is the key
    if (!node.is_scalar()) {
      failed_ = true;
      faults_.push_back({"", "a key that is not a word", node.place, false});
      return;
    }
    frame.key = node.text;
    frame.key_place = node.place;
    frame.has_key = true;
  } else {
    frame.has_key = false;
    AddEntry(frame, std::move(node));
  }
}

void TreeBuilder::AddEntry(Frame& frame, Node node) {
  Node* known = frame.node.Find(frame.key);
  if (known == nullptr) {
    frame.node.entries.push_back({frame.key, frame.key_place, std::move(node)});
    return;
  }
  if (!repeat_makes_list_) {
    faults_.push_back(
        {frame.key, absl::StrCat("given twice, first in ", known->place), frame.key_place, false});
    return;
  }
  if (!known->repeated) {
    Node list;
    list.kind = Node::Kind::kList;
    list.repeated = true;
    list.place = known->place;
    list.entries.push_back({"", known->place, std::move(*known)});
    *known = std::move(list);
  }
  known->entries.push_back({"", frame.key_place, std::move(node)});
}

}  // namespace vitscale
