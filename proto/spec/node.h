// What YAML, JSON and textproto have in common: a tree of mappings, lists and scalars that
// remembers its lines.
//
// Internal to proto/spec. The three readers build it through TreeBuilder, which keeps the limits:
// depth, number of nodes (aliases are copies and count), length of a scalar.

#ifndef PROTO_SPEC_NODE_H_
#define PROTO_SPEC_NODE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/spec/fault.h"

namespace vitscale {

inline constexpr size_t kSpecBytesMax = 1 << 20;
inline constexpr int kSpecDepthMax = 32;
inline constexpr int64_t kSpecNodesMax = 20'000;
inline constexpr size_t kSpecScalarBytesMax = 4096;

struct NodeEntry;

struct Node {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;                // of a scalar
  bool quoted = false;             // a scalar in quotes is a string whatever it looks like
  bool repeated = false;           // a list made by giving a key several times (textproto)
  std::string place;               // "line 4" or "--set"
  std::vector<NodeEntry> entries;  // of a list (keys empty) or a mapping

  bool is_map() const { return kind == Kind::kMap; }
  bool is_list() const { return kind == Kind::kList; }
  bool is_scalar() const { return kind == Kind::kScalar; }
  bool is_null() const { return kind == Kind::kNull; }
  Node* Find(absl::string_view key);  // of a mapping; null if not there
};

struct NodeEntry {
  std::string key;
  std::string place;  // of the key
  Node value;
};

// "\"abc\"", "12", "a list", "a mapping", "nothing": for "was …".
std::string DescribeNode(const Node& node);

int64_t CountNodes(const Node& node);

// Receives events in document order. After the first error everything is ignored.
class TreeBuilder {
 public:
  // `repeat_makes_list`: a key given again turns its value into a list (textproto) instead of being
  // a fault.
  explicit TreeBuilder(bool repeat_makes_list = false) : repeat_makes_list_(repeat_makes_list) {}

  void Null(int line, uint64_t anchor = 0);
  void Scalar(int line, std::string text, bool quoted, uint64_t anchor = 0);
  void Alias(int line, uint64_t anchor);
  void Begin(Node::Kind kind, int line, uint64_t anchor = 0);
  void End();
  void Key(int line, std::string key);  // JSON and textproto; YAML gives keys as scalars
  void Fail(int line, std::string text);

  bool failed() const { return failed_; }
  // Faults are syntax errors and duplicate keys.
  std::vector<Fault>& faults() { return faults_; }
  Node& root() { return root_; }
  bool has_root() const { return has_root_; }

 private:
  struct Frame {
    Node node;
    uint64_t anchor = 0;
    bool has_key = false;
    std::string key;
    std::string key_place;
  };
  void Emit(Node node, uint64_t anchor);
  void AddEntry(Frame& frame, Node node);
  bool Count(int line, int64_t nodes);

  const bool repeat_makes_list_;
  std::vector<Frame> stack_;
  std::map<uint64_t, Node> anchors_;
  std::vector<Fault> faults_;
  Node root_;
  bool has_root_ = false;
  bool failed_ = false;
  int64_t nodes_ = 0;
};

std::string LinePlace(int line);

// Each gives the tree of one document (a mapping), or all faults found. `text` is at most
// kSpecBytesMax.
bool ReadYaml(absl::string_view text, TreeBuilder& builder);
bool ReadJson(absl::string_view text, TreeBuilder& builder);
bool ReadTextproto(absl::string_view text, TreeBuilder& builder);

}  // namespace vitscale

#endif  // PROTO_SPEC_NODE_H_
