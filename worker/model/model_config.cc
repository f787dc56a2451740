#include "worker/model/model_config.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"
#include "kernels/base/suggest.h"

namespace vitscale {
namespace {

struct Size {
  const char* name;
  int width, depth, mlp_width, heads;
};
// arXiv 2106.04560 table 2 (the lower-case "s" is a model of its own), and big_vision's
// decode_variant.
constexpr Size kSizes[] = {
    {"mu", 32, 1, 128, 2},     {"s", 256, 6, 1024, 8},         {"Ti", 192, 12, 768, 3},
    {"S", 384, 12, 1536, 6},   {"M", 512, 12, 2048, 8},        {"B", 768, 12, 3072, 12},
    {"L", 1024, 24, 4096, 16}, {"So400m", 1152, 27, 4304, 16}, {"H", 1280, 32, 5120, 16},
    {"g", 1408, 40, 6144, 16}, {"g-opt", 1536, 40, 6144, 16},  {"G-opt", 1536, 48, 8192, 16},
    {"G", 1664, 48, 8192, 16}, {"e", 1792, 56, 15360, 16},
};
constexpr int kPatchMax = 256;

absl::Status OutOfRange(absl::string_view field, int64_t was, int64_t low, int64_t high) {
  return absl::InvalidArgumentError(
      absl::StrCat("model.", field, " is ", was, ", want ", low, " to ", high));
}

absl::Status CheckRanges(const ModelConfig& m) {
  struct Range {
    const char* field;
    int64_t value, low, high;
  };
  const Range ranges[] = {
      {"patch", m.patch, 1, kPatchMax},
      {"width", m.width, 8, 16384},
      {"depth", m.depth, 1, 512},
      {"heads", m.heads, 1, 256},
      {"mlp_width", m.mlp_width, 8, 65536},
      {"classes", m.classes, 1, 1000000},
      {"channels", m.channels, 1, 16},
      {"representation_size", m.representation_size, 0, 65536},
  };
  for (const Range& r : ranges) {
    if (r.value < r.low || r.value > r.high) return OutOfRange(r.field, r.value, r.low, r.high);
  }
  return absl::OkStatus();
}

}  // namespace

void ModelConfig::SetShape(const ModelShape& shape) {
  patch = shape.patch;
  width = shape.width;
  depth = shape.depth;
  heads = shape.heads;
  mlp_width = shape.mlp_width;
}

absl::StatusOr<ModelShape> VariantByName(absl::string_view name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  int patch = 0;
  if (parts.size() == 2 && absl::SimpleAtoi(parts[1], &patch) && patch >= 1 && patch <= kPatchMax) {
    for (const Size& size : kSizes) {
      if (parts[0] == size.name) {
        return ModelShape{patch, size.width, size.depth, size.heads, size.mlp_width};
      }
    }
  }
  return absl::NotFoundError(absl::StrCat(
      "model variant \"", name, "\": no such variant", DidYouMean(name, VariantNames()),
      "; want a size and a patch side (1 to ", kPatchMax, ") such as \"S/16\""));
}

std::vector<std::string> VariantNames() {
  return {"mu/16", "s/28", "s/16",      "Ti/16", "S/32", "S/16",     "M/16",     "B/32", "B/28",
          "B/16",  "L/16", "So400m/14", "H/14",  "g/14", "g-opt/16", "G-opt/14", "G/14", "e/14"};
}

absl::Status ValidateModel(const ModelConfig& m) {
  VITSCALE_RETURN_IF_ERROR(CheckRanges(m));
  if (m.image_size < m.patch || m.image_size > 2048) {
    return OutOfRange("image_size", m.image_size, m.patch, 2048);
  }
  if (m.width % m.heads != 0 || m.head_dim() % 8 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model.width is ", m.width, " with ", m.heads,
                                                   " heads, want width / heads a multiple of 8"));
  }
  if (m.position == PositionKind::kSincos2d && m.width % 4 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.width is ", m.width, ", want a multiple of 4 with sincos2d positions"));
  }
  if (!(std::abs(m.head_bias) <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.head_bias is ", m.head_bias, ", want -100 to 100"));
  }
  return absl::OkStatus();
}

DType ComputeDType(Precision precision) {
  return precision == Precision::kBf16 ? DType::kBf16 : DType::kF32;
}

}  // namespace vitscale
