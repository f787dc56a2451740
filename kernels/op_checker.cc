#include "kernels/op_checker.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace vitscale {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 42;

std::string ShapeText(const Shape& shape) {
  return absl::StrCat("[",
                      absl::StrJoin(shape, ", ",
                                    [](std::string* out, int64_t dim) {
                                      absl::StrAppend(out, dim == kAny ? "any" : absl::StrCat(dim));
                                    }),
                      "]");
}

std::string DTypesText(DTypes dtypes) {
  std::string text;
  for (int i = 0; i <= static_cast<int>(DType::kI64); ++i) {
    const DType dtype = static_cast<DType>(i);
    if (dtypes.Has(dtype)) absl::StrAppend(&text, text.empty() ? "" : " or ", DTypeName(dtype));
  }
  return text;
}

bool Fits(const Shape& shape, const Shape& want) {
  if (shape.size() != want.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (want[i] != kAny && shape[i] != want[i]) return false;
  }
  return true;
}

bool DimensionsInRange(const Shape& shape) {
  int64_t elements = 1;
  for (int64_t dim : shape) {
    if (dim <= 0 || dim > kMaxElements / elements) return false;
    elements *= dim;
  }
  return true;
}

// "gamma (blocks.0.norm.gamma)": the operand and, when it says more, the tensor's own name.
std::string Noun(absl::string_view operand, const TensorView& view) {
  if (view.name.empty() || view.name == operand) return std::string(operand);
  return absl::StrCat(operand, " (", view.name, ")");
}

}  // namespace

void OpChecker::Require(bool condition, absl::string_view message) {
  if (condition || !status_.ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat("op ", index_, " ", op_name_, ": ", message));
}

void OpChecker::Is(const TensorView& view, absl::string_view operand, DTypes dtypes,
                   const Shape& shape) {
  if (!ok()) return;
  const std::string noun = Noun(operand, view);
  Require(view.present(), absl::StrCat(noun, " is absent, want ", ShapeText(shape)));
  if (!ok()) return;
  Require(Fits(view.shape, shape),
          absl::StrCat(noun, " is ", ShapeText(view.shape), ", want ", ShapeText(shape)));
  Require(DimensionsInRange(view.shape),
          absl::StrCat(noun, " is ", ShapeText(view.shape), ", want positive dimensions"));
  Require(dtypes.Has(view.dtype),
          absl::StrCat(noun, " is ", DTypeName(view.dtype), ", want ", DTypesText(dtypes)));
  Require(
      view.offset % kTensorAlignment == 0,
      absl::StrCat(noun, " is at offset ", view.offset, ", want a multiple of ", kTensorAlignment));
}

void OpChecker::IsMaybePadded(const TensorView& view, absl::string_view operand, DTypes dtypes,
                              const Shape& shape, const WeightParts& weight) {
  const Shape padded = {shape[0], PadColumns(shape[1])};
  Is(view, operand, dtypes, weight.size() == 1 && view.shape == padded ? padded : shape);
}

void OpChecker::Maybe(const TensorView& view, absl::string_view operand, DTypes dtypes,
                      const Shape& shape) {
  if (view.present()) Is(view, operand, dtypes, shape);
}

void OpChecker::InArena(const TensorView& view, absl::string_view operand, Arena arena) {
  if (!view.present()) return;
  Require(view.arena == arena, absl::StrCat(Noun(operand, view), " is in arena ",
                                            ArenaName(view.arena), ", want ", ArenaName(arena)));
}

void OpChecker::Positive(int64_t value, absl::string_view name) {
  Require(value > 0, absl::StrCat(name, " is ", value, ", want more than 0"));
}

void OpChecker::RowsInGroup(int64_t rows, absl::string_view operand) {
  if (!in_group()) return;
  Require(rows % group_batch_ == 0,
          absl::StrCat(operand, " has ", rows, " rows, want a multiple of ", group_batch_,
                       ", the batch of its panel group"));
}

void OpChecker::BatchInGroup(int64_t batch) {
  Positive(batch, "batch");
  if (!in_group()) return;
  Require(batch == group_batch_, absl::StrCat("batch is ", batch, ", want ", group_batch_,
                                              ", the batch of its panel group"));
}

void OpChecker::OutsideGroups() {
  Require(!in_group(), "stands inside a panel group, want it after PanelEnd");
}

int64_t OpChecker::PartsWidth(const WeightParts& parts, absl::string_view operand, int64_t in,
                              Arena arena) {
  Require(!parts.empty(), absl::StrCat(operand, " has no parts, want 1 to 3"));
  int64_t width = 0;
  for (size_t i = 0; i < parts.size() && ok(); ++i) {
    const std::string part =
        parts.size() == 1 ? std::string(operand) : absl::StrCat(operand, "[", i, "]");
    Is(parts[i], part, kOnlyF32, {in, kAny});
    InArena(parts[i], part, arena);
    if (ok()) width += parts[i].shape[1];
  }
  return width;
}

void OpChecker::BiasParts(const WeightParts& bias, absl::string_view operand,
                          const WeightParts& weight, Arena arena) {
  if (bias.empty()) return;
  Require(bias.size() == weight.size(), absl::StrCat(operand, " has ", bias.size(), " parts, want ",
                                                     weight.size(), ", as many as the weight"));
  for (size_t i = 0; i < bias.size() && ok(); ++i) {
    const std::string part =
        bias.size() == 1 ? std::string(operand) : absl::StrCat(operand, "[", i, "]");
    Is(bias[i], part, kOnlyF32, {weight[i].shape[1]});
    InArena(bias[i], part, arena);
  }
}

}  // namespace vitscale
