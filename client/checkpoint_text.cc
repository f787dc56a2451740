#include "client/checkpoint_text.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/text.h"
#include "nlohmann/json.hpp"
#include "worker/weights/guess_model.h"

namespace vitscale {
namespace {

using Json = nlohmann::ordered_json;

std::string ShapeText(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

int64_t ParameterCount(const CheckpointView& view) {
  int64_t count = 0;
  for (const TensorEntry& tensor : view.tensors) {
    if (absl::StartsWith(tensor.name, kParameterPrefix)) count += ElementCount(tensor.shape);
  }
  return count;
}

std::string PrecisionText(link::Precision precision) {
  return precision == link::Precision::kBf16  ? "bf16"
         : precision == link::Precision::kF32 ? "f32"
                                              : "";
}

std::string NumericsText(const link::NumericsRecord& n) {
  if (n.backend.empty()) return "none: not trained here";
  return absl::StrCat(n.backend, " ", n.instruction_set, ", ", PrecisionText(n.precision), ", ",
                      n.world_size, n.world_size == 1 ? " worker" : " workers", ", micro-batch ",
                      n.batch_micro, ", ", n.collective, "; ", n.libraries, "; build ", n.build);
}

std::string LineageText(const CheckpointManifest& m) {
  return m.parent.empty() ? absl::StrCat(m.lineage) : absl::StrCat(m.lineage, ", from ", m.parent);
}

Json NumericsJson(const link::NumericsRecord& n) {
  return {{"backend", n.backend},
          {"build", n.build},
          {"instruction_set", n.instruction_set},
          {"libraries", n.libraries},
          {"precision", PrecisionText(n.precision)},
          {"world_size", n.world_size},
          {"batch_micro", n.batch_micro},
          {"collective", n.collective},
          {"bucket_bytes", n.bucket_bytes},
          {"recompute", n.recompute},
          {"residual", n.residual},
          {"choices", n.choices}};
}

Json ModelJson(const ModelConfig& m) {
  return {{"variant", VariantOf(m)},  {"image_size", m.image_size},
          {"channels", m.channels},   {"patch", m.patch},
          {"width", m.width},         {"depth", m.depth},
          {"heads", m.heads},         {"mlp_width", m.mlp_width},
          {"classes", m.classes},     {"pool", PoolName(m.pool)},
          {"loss", LossName(m.loss)}, {"position_embedding", PositionName(m.position)},
          {"head_bias", m.head_bias}, {"representation_size", m.representation_size}};
}

}  // namespace

std::string ModelText(const ModelConfig& m) {
  const std::string variant = VariantOf(m);
  std::string text = !variant.empty()
                         ? variant
                         : absl::StrCat("patch ", m.patch, ", width ", m.width, ", depth ", m.depth,
                                        ", heads ", m.heads, ", mlp width ", m.mlp_width);
  absl::StrAppend(&text, ", image ", m.image_size, ", ", PoolName(m.pool), " head, ",
                  Thousands(m.classes), m.classes == 1 ? " class, " : " classes, ",
                  LossName(m.loss), ", ", PositionName(m.position), " positions");
  if (m.channels != 3) absl::StrAppend(&text, ", ", m.channels, " channel");
  if (m.representation_size > 0) {
    absl::StrAppend(&text, ", representation ", m.representation_size);
  }
  return text;
}

v1::Model ModelSpec(const ModelConfig& m) {
  v1::Model spec;
  if (const std::string variant = VariantOf(m); !variant.empty()) {
    spec.set_variant(variant);
  } else {
    v1::CustomShape* shape = spec.mutable_custom();
    shape->set_patch(m.patch);
    shape->set_width(m.width);
    shape->set_depth(m.depth);
    shape->set_heads(m.heads);
    shape->set_mlp_width(m.mlp_width);
  }
  spec.set_image_size(m.image_size);
  spec.set_channels(m.channels);
  spec.set_pool(m.pool == PoolKind::kMap   ? v1::POOL_MAP
                : m.pool == PoolKind::kGap ? v1::POOL_GAP
                                           : v1::POOL_CLS);
  spec.set_classes(m.classes);
  spec.set_loss(m.loss == LossKind::kSoftmax ? v1::LOSS_SOFTMAX : v1::LOSS_SIGMOID);
  spec.set_head_bias(m.head_bias);
  spec.set_position_embedding(m.position == PositionKind::kSincos2d
                                  ? v1::POSITION_EMBEDDING_SINCOS2D
                                  : v1::POSITION_EMBEDDING_LEARNED);
  spec.set_representation_size(m.representation_size);
  return spec;
}

std::string CheckpointText(const CheckpointView& view, bool tensors, bool spec) {
  const CheckpointManifest& m = view.manifest;
  std::string text;
  const auto line = [&text](absl::string_view name, absl::string_view value) {
    absl::StrAppend(&text, absl::StrFormat("%-12s %s\n", name, value));
  };
  line("checkpoint", CheckpointId(m.job_id, m.name));
  line("path", view.path);
  line("holds", m.weights_only ? "weights only, imported"
                : m.final      ? "whole state, end of the run"
                               : "whole state");
  line("model", view.model ? ModelText(*view.model) : "not known: the spec cannot be read");
  line("parameters", Thousands(ParameterCount(view)));
  line("step", absl::StrCat(Thousands(m.name.step), " (", Thousands(m.images), " images)"));
  line("lineage", LineageText(m));
  line("seed", absl::StrCat(m.seed));
  line("digest", m.digest == 0 ? "not computed" : absl::StrFormat("%016x", m.digest));
  line("numerics", NumericsText(m.numerics));
  line("written",
       absl::StrCat(absl::FormatTime("%Y-%m-%d %H:%M:%S %Z", m.time, absl::UTCTimeZone()), " by ",
                    m.version));
  line("files", absl::StrCat(m.files.size(), ", ", Thousands(m.total_bytes()), " bytes"));
  if (tensors) {
    Table table({"TENSOR", "TYPE", "SHAPE"});
    for (const TensorEntry& tensor : view.tensors) {
      table.Row({tensor.name, DTypeName(tensor.dtype), ShapeText(tensor.shape)});
    }
    absl::StrAppend(&text, "\n", table.Text());
  }
  if (spec) absl::StrAppend(&text, "\n", m.spec);
  return text;
}

std::string CheckpointJson(const CheckpointView& view) {
  const CheckpointManifest& m = view.manifest;
  Json root = {{"id", CheckpointId(m.job_id, m.name)},
               {"path", view.path},
               {"weights_only", m.weights_only},
               {"final", m.final},
               {"step", m.name.step},
               {"images", m.images},
               {"attempt", m.name.attempt},
               {"generation", m.name.generation},
               {"emergency", m.name.emergency},
               {"lineage", m.lineage},
               {"parent", m.parent},
               {"seed", m.seed},
               {"digest", absl::StrFormat("%016x", m.digest)},
               {"plan_hash", absl::StrFormat("%016x", m.plan_hash)},
               {"version", m.version},
               {"time", absl::FormatTime(absl::RFC3339_full, m.time, absl::UTCTimeZone())},
               {"model", view.model ? ModelJson(*view.model) : Json(nullptr)},
               {"parameters", ParameterCount(view)},
               {"numerics", NumericsJson(m.numerics)},
               {"spec", m.spec}};
  root["files"] = Json::array();
  for (const PartFile& file : m.files) {
    root["files"].push_back({{"name", file.name},
                             {"bytes", file.bytes},
                             {"crc32c", absl::StrFormat("%08x", file.crc32c)}});
  }
  root["tensors"] = Json::array();
  for (const TensorEntry& tensor : view.tensors) {
    root["tensors"].push_back(
        {{"name", tensor.name},
         {"dtype", DTypeName(tensor.dtype)},
         {"shape", std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end())}});
  }
  return root.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace vitscale
