#include "worker/config/preprocess_config.h"

#include <optional>

#include "kernels/base/status.h"
#include "proto/spec/preprocess.h"

namespace vitscale {
namespace {

// nullopt: not an op that changes the size.
std::optional<ImageOp> ImageOpOf(const PreprocessOp& op) {
  static constexpr std::pair<const char*, ImageOpKind> kKinds[] = {
      {"resize", ImageOpKind::kResize},
      {"resize_small", ImageOpKind::kResizeSmall},
      {"central_crop", ImageOpKind::kCentralCrop},
      {"inception_crop", ImageOpKind::kInceptionCrop},
      {"random_crop", ImageOpKind::kRandomCrop}};
  for (const auto& [name, kind] : kKinds) {
    if (op.name != name) continue;
    const std::vector<double>& given = op.arguments;
    ImageOp result{kind, static_cast<int>(given[0]), static_cast<int>(given[0])};
    if (kind == ImageOpKind::kResize) result.width = static_cast<int>(given.back());
    if (kind != ImageOpKind::kInceptionCrop) return result;
    if (given.size() > 1) result.area_min = given[1] / 100;
    if (given.size() > 2) result.area_max = given[2] / 100;
    return result;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<Preprocess> PreprocessFromText(absl::string_view text) {
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<PreprocessOp> ops, ParsePreprocessOps(text));
  Preprocess result;
  for (const PreprocessOp& op : ops) {
    if (const auto image_op = ImageOpOf(op)) {
      result.ops.push_back(*image_op);
    } else if (op.name == "flip_lr") {
      result.flip_lr = true;
    } else if (op.name == "value_range") {
      result.range_min = static_cast<float>(op.arguments[0]);
      result.range_max = static_cast<float>(op.arguments[1]);
    }
  }
  return result;
}

}  // namespace vitscale
