#include "worker/data/preprocess.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"
#include "kernels/base/suggest.h"

namespace vitscale {
namespace {

struct Op {
  std::string name;
  std::vector<std::string> arguments;
};

absl::Status Fault(absl::string_view op, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("preprocess op \"", op, "\": ", what));
}

// "name" or "name(a,b)".
absl::StatusOr<Op> SplitOp(absl::string_view text) {
  Op op;
  const size_t open = text.find('(');
  op.name = std::string(absl::StripAsciiWhitespace(text.substr(0, open)));
  if (op.name.empty()) return Fault(text, "has no name");
  if (open == absl::string_view::npos) return op;
  absl::string_view inside = text.substr(open + 1);
  if (!absl::EndsWith(inside, ")")) return Fault(text, "its bracket is not closed");
  inside.remove_suffix(1);
  if (absl::StripAsciiWhitespace(inside).empty()) return op;
  for (absl::string_view argument : absl::StrSplit(inside, ',')) {
    op.arguments.emplace_back(absl::StripAsciiWhitespace(argument));
  }
  return op;
}

absl::Status ReadValueRange(const Op& op, absl::string_view text, Preprocess* result) {
  float low = 0, high = 0;
  const bool numbers = op.arguments.size() == 2 && absl::SimpleAtof(op.arguments[0], &low) &&
                       absl::SimpleAtof(op.arguments[1], &high);
  if (!numbers || !std::isfinite(low) || !std::isfinite(high) || low >= high) {
    return Fault(text, "want value_range(low,high) with two numbers, low < high");
  }
  result->range_min = low;
  result->range_max = high;
  return absl::OkStatus();
}

absl::Status ReadFlip(const Op& op, absl::string_view text, PreprocessUse use, Preprocess* result) {
  if (!op.arguments.empty()) return Fault(text, "takes no arguments");
  if (use == PreprocessUse::kEval) {
    return Fault(text, "is random, and an evaluation must not be: leave it out");
  }
  result->flip_lr = use == PreprocessUse::kTrain;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Preprocess> ParsePreprocess(absl::string_view text, PreprocessUse use) {
  Preprocess result;
  if (absl::StripAsciiWhitespace(text).empty()) return result;
  bool have_range = false, have_flip = false;
  for (absl::string_view piece : absl::StrSplit(text, '|')) {
    piece = absl::StripAsciiWhitespace(piece);
    VITSCALE_ASSIGN_OR_RETURN(const Op op, SplitOp(piece));
    if (have_range) return Fault(piece, "stands after value_range, which must be the last op");
    if (op.name == "value_range") {
      VITSCALE_RETURN_IF_ERROR(ReadValueRange(op, piece, &result));
      have_range = true;
    } else if (op.name == "flip_lr") {
      if (have_flip) return Fault(piece, "is given twice");
      VITSCALE_RETURN_IF_ERROR(ReadFlip(op, piece, use, &result));
      have_flip = true;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("preprocess: unknown op \"", op.name, "\"",
                       DidYouMean(op.name, {"value_range", "flip_lr"}),
                       " (there are value_range(low,high) and flip_lr)"));
    }
  }
  return result;
}

}  // namespace vitscale
