#include "proto/spec/preprocess.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"
#include "kernels/base/suggest.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

struct KnownOp {
  const char* name;
  int arguments;
  bool random;
  bool runs;  // false: of the authors' list (big_vision pp), not run yet
};
constexpr KnownOp kOps[] = {
    {"value_range", 2, false, true},    {"flip_lr", 0, true, true},
    {"inception_crop", 1, true, false}, {"random_crop", 1, true, false},
    {"resize", 1, false, false},        {"resize_small", 1, false, false},
    {"central_crop", 1, false, false},
};

const KnownOp* FindOp(absl::string_view name) {
  const auto* at = std::find_if(std::begin(kOps), std::end(kOps),
                                [&](const KnownOp& op) { return op.name == name; });
  return at == std::end(kOps) ? nullptr : at;
}

std::vector<std::string> OpNames() {
  std::vector<std::string> names;
  for (const KnownOp& op : kOps) {
    if (op.runs) names.push_back(op.name);
  }
  return names;
}

absl::Status CheckOp(const PreprocessOp& op) {
  const KnownOp* known = FindOp(op.name);
  if (known == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("unknown op \"", op.name, "\"",
                                                   DidYouMean(op.name, OpNames()), "; known are ",
                                                   absl::StrJoin(OpNames(), ", ")));
  }
  if (!known->runs) {
    return absl::UnimplementedError(
        absl::StrCat("op \"", op.name, "\" is not run by this version"));
  }
  if (static_cast<int>(op.arguments.size()) != known->arguments) {
    return absl::InvalidArgumentError(absl::StrCat("op \"", op.name, "\" was given ",
                                                   op.arguments.size(), " arguments, wanted ",
                                                   known->arguments));
  }
  if (op.name == "value_range" && !(op.arguments[0] < op.arguments[1])) {
    return absl::InvalidArgumentError("op \"value_range\" wants its first number below its second");
  }
  return absl::OkStatus();
}

absl::StatusOr<PreprocessOp> ParseOp(absl::string_view text) {
  PreprocessOp op;
  const size_t open = text.find('(');
  op.name = std::string(absl::StripAsciiWhitespace(text.substr(0, open)));
  if (op.name.empty()) {
    return absl::InvalidArgumentError("an op without a name, wanted ops joined by \"|\"");
  }
  if (open == absl::string_view::npos) return op;
  absl::string_view rest = absl::StripAsciiWhitespace(text.substr(open + 1));
  if (rest.empty() || rest.back() != ')') {
    return absl::InvalidArgumentError(absl::StrCat("op \"", op.name, "\" lacks its \")\""));
  }
  rest.remove_suffix(1);
  if (absl::StripAsciiWhitespace(rest).empty()) return op;
  for (const absl::string_view argument : absl::StrSplit(rest, ',')) {
    double value = 0;
    if (!absl::SimpleAtod(argument, &value) || !std::isfinite(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("op \"", op.name, "\": was \"", argument, "\", wanted a number"));
    }
    op.arguments.push_back(value);
  }
  return op;
}

}  // namespace

absl::StatusOr<std::vector<PreprocessOp>> ParsePreprocessOps(absl::string_view text) {
  std::vector<PreprocessOp> ops;
  for (const absl::string_view part : absl::StrSplit(text, '|')) {
    VITSCALE_ASSIGN_OR_RETURN(PreprocessOp op, ParseOp(part));
    VITSCALE_RETURN_IF_ERROR(CheckOp(op));
    for (const PreprocessOp& other : ops) {
      if (other.name == op.name) {
        return absl::InvalidArgumentError(absl::StrCat("op \"", op.name, "\" is given twice"));
      }
    }
    if (!ops.empty() && ops.back().name == "value_range") {
      return absl::InvalidArgumentError(absl::StrCat(
          "op \"", op.name, "\" stands after \"value_range\", which must be the last op"));
    }
    ops.push_back(std::move(op));
  }
  return ops;
}

std::string FormatPreprocess(const std::vector<PreprocessOp>& ops) {
  return absl::StrJoin(ops, "|", [](std::string* out, const PreprocessOp& op) {
    absl::StrAppend(out, op.name);
    if (op.arguments.empty()) return;
    absl::StrAppend(out, "(",
                    absl::StrJoin(op.arguments, ",",
                                  [](std::string* o, double value) {
                                    absl::StrAppend(o, ShortestDouble(value));
                                  }),
                    ")");
  });
}

bool IsRandomOp(const PreprocessOp& op) {
  const KnownOp* known = FindOp(op.name);
  return known != nullptr && known->random;
}

std::vector<PreprocessOp> WithoutRandomOps(const std::vector<PreprocessOp>& ops) {
  std::vector<PreprocessOp> fixed;
  std::copy_if(ops.begin(), ops.end(), std::back_inserter(fixed),
               [](const PreprocessOp& op) { return !IsRandomOp(op); });
  return fixed;
}

}  // namespace vitscale
