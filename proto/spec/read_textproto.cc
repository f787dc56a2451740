// Protobuf's text format, by protobuf's own tokenizer: TextFormat::Parser stops at the first
// unknown field, while we report all faults at once.

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/spec/node.h"

namespace vitscale {
namespace {

using google::protobuf::io::Tokenizer;

class TokenErrors : public google::protobuf::io::ErrorCollector {
 public:
  explicit TokenErrors(TreeBuilder& builder) : builder_(builder) {}
  void AddError(int line, int, const std::string& message) override {
    builder_.Fail(line + 1, absl::StrCat("not textproto: ", message));
  }

 private:
  TreeBuilder& builder_;
};

class TextprotoReader {
 public:
  TextprotoReader(absl::string_view text, TreeBuilder& builder)
      : builder_(builder),
        errors_(builder),
        stream_(text.data(), static_cast<int>(text.size())),
        tokens_(&stream_, &errors_) {
    tokens_.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
    tokens_.set_allow_f_after_float(true);
    tokens_.Next();
  }

  void Read() {
    builder_.Begin(Node::Kind::kMap, 1);
    while (!builder_.failed() && !At(Tokenizer::TYPE_END)) {
      Field();
    }
    builder_.End();
  }

 private:
  bool At(Tokenizer::TokenType type) { return tokens_.current().type == type; }
  bool At(absl::string_view symbol) {
    return At(Tokenizer::TYPE_SYMBOL) && tokens_.current().text == symbol;
  }
  bool Take(absl::string_view symbol) {
    if (!At(symbol)) return false;
    tokens_.Next();
    return true;
  }
  int line() { return tokens_.current().line + 1; }
  void Unexpected(absl::string_view wanted) {
    builder_.Fail(line(), absl::StrCat("not textproto: was \"", tokens_.current().text,
                                       "\", wanted ", wanted));
  }

  void Field() {
    if (!At(Tokenizer::TYPE_IDENTIFIER)) return Unexpected("the name of a field");
    builder_.Key(line(), tokens_.current().text);
    tokens_.Next();
    const bool colon = Take(":");
    if (At("{") || At("<")) {
      Message();
    } else if (!colon) {
      Unexpected("\":\" or \"{\"");
    } else {
      Value();
    }
    if (!Take(",")) Take(";");
  }

  void Message() {
    const absl::string_view close = At("{") ? "}" : ">";
    builder_.Begin(Node::Kind::kMap, line());
    tokens_.Next();
    while (!builder_.failed() && !At(close)) {
      if (At(Tokenizer::TYPE_END)) return Unexpected(absl::StrCat("\"", close, "\""));
      Field();
    }
    builder_.End();
    tokens_.Next();
  }

  void Value() {
    if (At("{") || At("<")) return Message();
    if (At("[")) return List();
    const bool minus = Take("-");
    const int at_line = line();
    if (At(Tokenizer::TYPE_STRING) && !minus) {
      std::string text;
      for (; At(Tokenizer::TYPE_STRING); tokens_.Next()) {
        Tokenizer::ParseStringAppend(tokens_.current().text, &text);
      }
      return builder_.Scalar(at_line, std::move(text), true);
    }
    if (!At(Tokenizer::TYPE_INTEGER) && !At(Tokenizer::TYPE_FLOAT) &&
        !At(Tokenizer::TYPE_IDENTIFIER)) {
      return Unexpected("a value");
    }
    builder_.Scalar(at_line, absl::StrCat(minus ? "-" : "", tokens_.current().text), false);
    tokens_.Next();
  }

  void List() {
    builder_.Begin(Node::Kind::kList, line());
    tokens_.Next();
    while (!builder_.failed() && !Take("]")) {
      Value();
      if (!Take(",") && !At("]")) return Unexpected("\",\" or \"]\"");
    }
    builder_.End();
  }

  TreeBuilder& builder_;
  TokenErrors errors_;
  google::protobuf::io::ArrayInputStream stream_;
  Tokenizer tokens_;
};

}  // namespace

bool ReadTextproto(absl::string_view text, TreeBuilder& builder) {
  TextprotoReader(text, builder).Read();
  return !builder.failed();
}

}  // namespace vitscale
