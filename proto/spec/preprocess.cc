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

constexpr int kSideMax = 4096;
constexpr int kOpsMax = 16;
constexpr double kAreaMin = 5, kAreaMax = 100;  // per cent, defaults of inception_crop

struct KnownOp {
  const char* name;
  int arguments_min, arguments_max;
  int sides;  // how many of the arguments are sides in pixels
  bool random;
};
constexpr KnownOp kOps[] = {
    {"decode", 0, 0, 0, false},        {"resize", 1, 2, 2, false},
    {"resize_small", 1, 1, 1, false},  {"central_crop", 1, 1, 1, false},
    {"inception_crop", 1, 3, 1, true}, {"random_crop", 1, 1, 1, true},
    {"flip_lr", 0, 0, 0, true},        {"value_range", 2, 2, 0, false},
};
// Of the authors' list, not run.
constexpr const char* kNotRun[] = {"randaug", "keep",   "drop",          "copy",
                                   "onehot",  "rotate", "inception_box", "crop_box"};

const KnownOp* FindOp(absl::string_view name) {
  const auto* at = std::find_if(std::begin(kOps), std::end(kOps),
                                [&](const KnownOp& op) { return op.name == name; });
  return at == std::end(kOps) ? nullptr : at;
}

absl::Status UnknownOp(const std::string& name) {
  const auto* not_run = std::find(std::begin(kNotRun), std::end(kNotRun), name);
  if (not_run != std::end(kNotRun)) {
    return absl::UnimplementedError(absl::StrCat("op \"", name, "\" is not run by this version"));
  }
  std::vector<std::string> names;
  for (const KnownOp& op : kOps) names.push_back(op.name);
  return absl::InvalidArgumentError(absl::StrCat("unknown op \"", name, "\"",
                                                 DidYouMean(name, names), "; known are ",
                                                 absl::StrJoin(names, ", ")));
}

absl::Status Fault(const PreprocessOp& op, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("op \"", op.name, "\" ", what));
}

absl::Status CheckArguments(const PreprocessOp& op, const KnownOp& known) {
  const int count = static_cast<int>(op.arguments.size());
  if (count < known.arguments_min || count > known.arguments_max) {
    const bool fixed = known.arguments_min == known.arguments_max;
    return Fault(op, absl::StrCat("was given ", count, " arguments, wanted ", known.arguments_min,
                                  fixed ? "" : absl::StrCat(" to ", known.arguments_max)));
  }
  for (int i = 0; i < std::min(count, known.sides); ++i) {
    const double side = op.arguments[i];
    if (side < 1 || side > kSideMax || side != std::floor(side)) {
      return Fault(op, absl::StrCat("was given a side of ", ShortestDouble(side),
                                    ", wanted whole pixels, 1 to ", kSideMax));
    }
  }
  return absl::OkStatus();
}

double AreaMin(const PreprocessOp& op) {
  return op.arguments.size() > 1 ? op.arguments[1] : kAreaMin;
}
double AreaMax(const PreprocessOp& op) {
  return op.arguments.size() > 2 ? op.arguments[2] : kAreaMax;
}

absl::Status CheckOp(const PreprocessOp& op) {
  const KnownOp* known = FindOp(op.name);
  if (known == nullptr) return UnknownOp(op.name);
  VITSCALE_RETURN_IF_ERROR(CheckArguments(op, *known));
  if (op.name == "value_range" && !(op.arguments[0] < op.arguments[1])) {
    return Fault(op, "wants its first number below its second");
  }
  if (op.name == "inception_crop" &&
      !(AreaMin(op) > 0 && AreaMin(op) <= AreaMax(op) && AreaMax(op) <= 100)) {
    return Fault(op, absl::StrCat("was given an area of ", ShortestDouble(AreaMin(op)), " to ",
                                  ShortestDouble(AreaMax(op)),
                                  " per cent, wanted above 0 to 100, the smaller one first"));
  }
  return absl::OkStatus();
}

// What stands where.
absl::Status CheckPlace(const PreprocessOp& op, const std::vector<PreprocessOp>& before) {
  if (before.size() == kOpsMax) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kOpsMax, " ops"));
  }
  if (!before.empty() && before.back().name == "value_range" && op.name != "value_range") {
    return Fault(op, "stands after \"value_range\", which must be the last op");
  }
  const bool may_repeat = FindOp(op.name)->sides > 0;
  const auto same = [&](const PreprocessOp& other) { return other.name == op.name; };
  if (!may_repeat && std::any_of(before.begin(), before.end(), same)) {
    return Fault(op, "is given twice");
  }
  if (op.name == "decode" && !before.empty()) return Fault(op, "must be the first op");
  return absl::OkStatus();
}

absl::StatusOr<PreprocessOp> ParseOp(absl::string_view text) {
  PreprocessOp op;
  const size_t open = text.find('(');
  op.name = std::string(absl::StripAsciiWhitespace(text.substr(0, open)));
  if (op.name == "decode_jpeg_and_inception_crop") op.name = "inception_crop";
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

bool ChangesSize(const PreprocessOp& op) { return FindOp(op.name)->sides > 0; }

// Sides of an image on its way; 0: not known.
struct Size {
  int height = 0, width = 0;
  int shorter = 0;  // known after resize_small alone

  std::string Text() const { return absl::StrCat(height, "x", width); }
};

absl::Status Crop(const PreprocessOp& op, int side, Size* size) {
  const int room = size->height > 0 ? std::min(size->height, size->width) : size->shorter;
  if (room > 0 && side > room) {
    return Fault(
        op, absl::StrCat("cuts ", side, "x", side, " from images whose shorter side is ", room));
  }
  *size = {side, side, side};
  return absl::OkStatus();
}

absl::Status ApplyToSize(const PreprocessOp& op, Size* size) {
  const int side = static_cast<int>(op.arguments[0]);
  if (op.name == "resize") {
    *size = {side, static_cast<int>(op.arguments.back()), 0};
  } else if (op.name == "inception_crop") {
    *size = {side, side, side};
  } else if (op.name == "resize_small") {
    const bool square = size->height > 0 && size->height == size->width;
    *size = square ? Size{side, side, side} : Size{0, 0, side};
  } else {
    return Crop(op, side, size);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<PreprocessOp>> ParsePreprocessOps(absl::string_view text) {
  std::vector<PreprocessOp> ops;
  for (const absl::string_view part : absl::StrSplit(text, '|')) {
    VITSCALE_ASSIGN_OR_RETURN(PreprocessOp op, ParseOp(part));
    VITSCALE_RETURN_IF_ERROR(CheckOp(op));
    VITSCALE_RETURN_IF_ERROR(CheckPlace(op, ops));
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

std::vector<PreprocessOp> CanonicalOps(std::vector<PreprocessOp> ops) {
  if (!ops.empty() && ops.front().name == "decode") ops.erase(ops.begin());
  for (PreprocessOp& op : ops) {
    std::vector<double>& given = op.arguments;
    if (op.name == "resize" && given.size() == 2 && given[0] == given[1]) given.pop_back();
    if (op.name != "inception_crop") continue;
    if (given.size() == 3 && given[2] == kAreaMax) given.pop_back();
    if (given.size() == 2 && given[1] == kAreaMin) given.pop_back();
  }
  if (ops.empty() || ops.back().name != "value_range") ops.push_back({"value_range", {-1, 1}});
  return ops;
}

bool IsRandomOp(const PreprocessOp& op) {
  const KnownOp* known = FindOp(op.name);
  return known != nullptr && known->random;
}

std::vector<PreprocessOp> EvaluationOps(const std::vector<PreprocessOp>& train, bool few_shot) {
  std::vector<PreprocessOp> fixed;
  for (const PreprocessOp& op : train) {
    if (op.name == "inception_crop") {
      std::erase_if(fixed, ChangesSize);
      const double side = op.arguments[0];
      fixed.push_back({few_shot ? "resize" : "resize_small", {std::round(side * 256 / 224)}});
      fixed.push_back({"central_crop", {side}});
    } else if (op.name == "random_crop") {
      fixed.push_back({"central_crop", op.arguments});
    } else if (!IsRandomOp(op)) {
      fixed.push_back(op);
    }
  }
  return fixed;
}

absl::Status CheckFinalSize(const std::vector<PreprocessOp>& ops, bool any_size, int image_size) {
  Size size;
  const PreprocessOp* last = nullptr;
  for (const PreprocessOp& op : ops) {
    if (!ChangesSize(op)) continue;
    VITSCALE_RETURN_IF_ERROR(ApplyToSize(op, &size));
    last = &op;
  }
  const std::string wanted =
      absl::StrCat(image_size, "x", image_size, ", which is model.image_size");
  if (size.height > 0) {
    if (size.height == image_size && size.width == image_size) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("makes images of ", size.Text(), ", wanted ", wanted));
  }
  if (!any_size) return absl::OkStatus();  // seen when the data is opened
  const std::string leaves =
      last == nullptr
          ? "leaves images as large as their files"
          : absl::StrCat("leaves the longer side as it comes after \"", last->name, "\"");
  return absl::InvalidArgumentError(
      absl::StrCat(leaves, ", wanted ", wanted, ": add inception_crop(", image_size,
                   ") for training or central_crop(", image_size, ") for an evaluation"));
}

}  // namespace vitscale
