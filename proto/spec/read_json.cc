// JSON through the event interface of nlohmann-json, with an iterator that counts lines. Its
// exceptions end here.

#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/spec/node.h"

namespace vitscale {
namespace {

// The lexer reads one character beyond a number, so the line before the newest character is kept,
// too.
struct LineCount {
  int line = 1;
  int line_before = 1;
};

class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, LineCount* count) : at_(at), count_(count) {}
  const char& operator*() const { return *at_; }
  CountingIterator& operator++() {
    count_->line_before = count_->line;
    count_->line += *at_ == '\n';
    ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  LineCount* count_;
};

class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonEvents(TreeBuilder& builder, const LineCount& count) : builder_(builder), count_(count) {}

  bool null() override {
    return Do([&] { builder_.Null(count_.line); });
  }
  bool boolean(bool value) override { return Plain(value ? "true" : "false", count_.line); }
  bool number_integer(int64_t value) override {
    return Plain(absl::StrCat(value), count_.line_before);
  }
  bool number_unsigned(uint64_t value) override {
    return Plain(absl::StrCat(value), count_.line_before);
  }
  bool number_float(double, const std::string& text) override {
    return Plain(text, count_.line_before);
  }
  bool string(std::string& value) override {
    return Do([&] { builder_.Scalar(count_.line, value, true); });
  }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(size_t) override {
    return Do([&] { builder_.Begin(Node::Kind::kMap, count_.line); });
  }
  bool key(std::string& value) override {
    return Do([&] { builder_.Key(count_.line, value); });
  }
  bool end_object() override {
    return Do([&] { builder_.End(); });
  }
  bool start_array(size_t) override {
    return Do([&] { builder_.Begin(Node::Kind::kList, count_.line); });
  }
  bool end_array() override {
    return Do([&] { builder_.End(); });
  }
  bool parse_error(size_t, const std::string& last, const nlohmann::json::exception& e) override {
    const std::string what = e.what();
    const size_t colon = what.find(": ");
    builder_.Fail(
        count_.line_before,
        absl::StrCat("not JSON: ", colon == std::string::npos ? what : what.substr(colon + 2)));
    return false;
  }

 private:
  template <typename F>
  bool Do(F f) {
    f();
    return !builder_.failed();
  }
  bool Plain(std::string text, int line) {
    return Do([&] { builder_.Scalar(line, std::move(text), false); });
  }

  TreeBuilder& builder_;
  const LineCount& count_;
};

}  // namespace

bool ReadJson(absl::string_view text, TreeBuilder& builder) {
  try {
    LineCount count;
    JsonEvents events(builder, count);
    nlohmann::json::sax_parse(CountingIterator(text.data(), &count),
                              CountingIterator(text.data() + text.size(), &count), &events);
  } catch (const std::exception& e) {
    builder.Fail(0, absl::StrCat("not JSON: ", e.what()));
  }
  return !builder.failed();
}

}  // namespace vitscale
