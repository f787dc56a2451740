// YAML through the event interface of yaml-cpp: its own tree has no limits and no mark for keys.
// Exceptions of yaml-cpp end here.

#include <istream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/spec/node.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace vitscale {
namespace {

class YamlEvents : public YAML::EventHandler {
 public:
  explicit YamlEvents(TreeBuilder& builder) : builder_(builder) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    builder_.Null(mark.line + 1, anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    builder_.Alias(mark.line + 1, anchor);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    const bool quoted = tag == "!" || tag == "tag:yaml.org,2002:str";
    builder_.Scalar(mark.line + 1, value, quoted, anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    builder_.Begin(Node::Kind::kList, mark.line + 1, anchor);
  }
  void OnSequenceEnd() override { builder_.End(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    builder_.Begin(Node::Kind::kMap, mark.line + 1, anchor);
  }
  void OnMapEnd() override { builder_.End(); }

 private:
  TreeBuilder& builder_;
};

// yaml-cpp takes a document apart recursively and stops at 500 levels only; every level beyond ours
// costs work for nothing, so brackets are counted first (brackets in strings count too: harmless at
// this depth).
bool TooManyBrackets(absl::string_view text) {
  int depth = 0;
  for (const char c : text) {
    depth += (c == '[' || c == '{') - ((c == ']' || c == '}') && depth > 0);
    if (depth > 8 * kSpecDepthMax) return true;
  }
  return false;
}

}  // namespace

bool ReadYaml(absl::string_view text, TreeBuilder& builder) {
  if (TooManyBrackets(text)) {
    builder.Fail(0, absl::StrCat("is nested deeper than ", kSpecDepthMax, " levels"));
    return false;
  }
  try {
    std::istringstream in{std::string(text)};
    YAML::Parser parser(in);
    YamlEvents events(builder);
    if (parser.HandleNextDocument(events)) {
      TreeBuilder rest;
      YamlEvents ignored(rest);
      if (parser.HandleNextDocument(ignored)) {
        builder.Fail(0, "has more than one document, wanted one");
      }
    }
  } catch (const YAML::Exception& e) {
    builder.Fail(e.mark.is_null() ? 0 : e.mark.line + 1, absl::StrCat("not YAML: ", e.msg));
  } catch (const std::exception& e) {
    builder.Fail(0, absl::StrCat("not YAML: ", e.what()));
  }
  return !builder.failed();
}

}  // namespace vitscale
