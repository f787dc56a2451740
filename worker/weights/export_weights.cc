#include "worker/weights/export_weights.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/path.h"
#include "kernels/base/status.h"
#include "worker/checkpoint/tensor_file.h"
#include "worker/model/vit.h"
#include "worker/weights/npz_file.h"

namespace vitscale {
namespace {

// A tensor of the file and what of ours goes into it.
struct Piece {
  Place place;
  Shape shape;
  absl::Span<const float> values;
};
struct Output {
  std::string name;
  Shape shape;
  std::vector<Piece> pieces;

  std::vector<float> Values() const {
    std::vector<float> values(ElementCount(shape));
    for (const Piece& p : pieces) {
      CopyToTheirs(p.place, p.shape, p.values, absl::MakeSpan(values));
    }
    return values;
  }
};

// Collects the outputs in the order in which parameters come.
class Layout {
 public:
  Layout(const Spelling& spelling, int64_t depth) : spelling_(spelling), depth_(depth) {}

  void Add(const std::string& ours, const Shape& shape, absl::Span<const float> values) {
    const std::vector<Place> places = PlacesOf(spelling_, ours, depth_);
    if (places.empty()) {
      unplaced_.push_back(ours);
      return;
    }
    const std::string name = absl::StrCat(spelling_.prefixes[0], places[0].name);
    const auto [found, is_new] = by_name_.emplace(name, outputs_.size());
    if (is_new) outputs_.push_back({name, TheirShape(places[0], shape), {}});
    outputs_[found->second].pieces.push_back({places[0], shape, values});
  }

  absl::StatusOr<std::vector<Output>> Finish() && {
    if (unplaced_.empty()) return std::move(outputs_);
    const bool head = std::any_of(unplaced_.begin(), unplaced_.end(), [](const std::string& name) {
      return absl::StartsWith(name, "head/");
    });
    return absl::InvalidArgumentError(absl::StrCat(
        "the format ", spelling_.title, " has no place for ", absl::StrJoin(unplaced_, ", "),
        head ? "; --without-head leaves the head out" : ""));
  }

 private:
  const Spelling& spelling_;
  const int64_t depth_;
  std::vector<Output> outputs_;
  std::vector<std::string> unplaced_;
  absl::flat_hash_map<std::string, size_t> by_name_;
};

absl::Status WriteNpz(FileSystem& fs, const std::string& path, const std::vector<Output>& outputs,
                      const Progress& progress) {
  VITSCALE_ASSIGN_OR_RETURN(const auto writer, NpzWriter::Create(fs, path));
  int64_t total = 0, done = 0;
  for (const Output& output : outputs) total += ElementCount(output.shape) * sizeof(float);
  for (const Output& output : outputs) {
    const std::vector<float> values = output.Values();
    VITSCALE_RETURN_IF_ERROR(writer->Add(output.name, output.shape, values));
    done += values.size() * sizeof(float);
    if (progress) progress(done, total);
  }
  return writer->Finish();
}

absl::Status WriteSafetensors(FileSystem& fs, const std::string& path,
                              const std::vector<Output>& outputs, const std::string& expression) {
  std::vector<std::vector<float>> values;
  std::vector<NamedTensor> tensors;
  for (const Output& output : outputs) {
    values.push_back(output.Values());
    const auto* bytes = reinterpret_cast<const std::byte*>(values.back().data());
    tensors.push_back(
        {output.name, DType::kF32, output.shape, {bytes, values.back().size() * sizeof(float)}});
  }
  // transformers reads only files that say "pt".
  return WriteTensorFile(fs, path, tensors, {{"format", "pt"}, {"model", expression}}).status();
}

// mlp_ratio such that int(width * ratio) is mlp_width, as timm computes it.
std::string MlpRatio(const ModelConfig& m) {
  double ratio = static_cast<double>(m.mlp_width) / m.width;
  while (static_cast<int64_t>(m.width * ratio) < m.mlp_width) {
    ratio = std::nextafter(ratio, std::numeric_limits<double>::infinity());
  }
  return absl::StrFormat("%.17g", ratio);
}

std::string TimmExpression(const ModelConfig& m, bool without_head) {
  const char* pool = m.pool == PoolKind::kMap ? "class_token=False, global_pool='map'"
                     : m.pool == PoolKind::kGap
                         ? "class_token=False, global_pool='avg', fc_norm=False"
                         : "global_pool='token', no_embed_class=True";
  return absl::StrCat(
      "timm.models.vision_transformer.VisionTransformer(img_size=", m.grid() * m.patch,
      ", patch_size=", m.patch, ", in_chans=", m.channels,
      ", num_classes=", without_head ? 0 : m.classes, ", embed_dim=", m.width, ", depth=", m.depth,
      ", num_heads=", m.heads, ", mlp_ratio=", MlpRatio(m), ", ", pool, ", act_layer='gelu_tanh')");
}

std::string HfExpression(const ModelConfig& m) {
  return absl::StrCat("transformers.SiglipVisionModel(transformers.SiglipVisionConfig(hidden_size=",
                      m.width, ", intermediate_size=", m.mlp_width, ", num_hidden_layers=", m.depth,
                      ", num_attention_heads=", m.heads, ", num_channels=", m.channels,
                      ", image_size=", m.grid() * m.patch, ", patch_size=", m.patch,
                      m.pool == PoolKind::kMap ? "" : ", vision_use_head=False", "))");
}

std::string BigVisionExpression(const ModelConfig& m, bool without_head) {
  const char* pool = m.pool == PoolKind::kMap ? "map" : m.pool == PoolKind::kGap ? "gap" : "tok";
  return absl::StrCat(
      "big_vision.models.vit.Model(num_classes=", without_head ? "None" : absl::StrCat(m.classes),
      ", patch_size=(", m.patch, ", ", m.patch, "), width=", m.width, ", depth=", m.depth,
      ", mlp_dim=", m.mlp_width, ", num_heads=", m.heads, ", posemb='",
      m.position == PositionKind::kLearned ? "learn" : "sincos2d",
      "', rep_size=", m.representation_size > 0 ? absl::StrCat(m.representation_size) : "False",
      ", pool_type='", pool, "')");
}

}  // namespace

absl::Status ExportWeights(FileSystem& fs, const std::string& path, const Weights& weights,
                           const Spelling& spelling, const ExportOptions& options,
                           const Progress& progress) {
  const ModelConfig& model = weights.model;
  Layout layout(spelling, model.depth);
  for (const Parameter& p : weights.table.parameters()) {
    if (options.without_head && absl::StartsWith(p.name, "head/")) continue;
    layout.Add(p.name, p.shape, weights.Of(p));
  }
  std::vector<float> fixed_positions;
  if (model.position == PositionKind::kSincos2d && !spelling.has_sincos2d) {
    fixed_positions = Sincos2dPositions(model);
    layout.Add("pos_embedding", {1, model.patches(), model.width}, fixed_positions);
  }
  VITSCALE_ASSIGN_OR_RETURN(const std::vector<Output> outputs, std::move(layout).Finish());

  VITSCALE_ASSIGN_OR_RETURN(const bool there, fs.Exists(path));
  if (there && !options.overwrite) {
    return absl::AlreadyExistsError(absl::StrCat("'", path, "' exists; --force replaces it"));
  }
  if (there) {
    VITSCALE_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(path));
    if (!info.is_regular) {
      return absl::FailedPreconditionError(
          absl::StrCat("'", path, "' is no regular file, and is not replaced"));
    }
  }
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  absl::Status status =
      spelling.safetensors
          ? WriteSafetensors(fs, temporary, outputs,
                             ModelExpression(spelling, model, options.without_head))
          : WriteNpz(fs, temporary, outputs, progress);
  if (status.ok()) status = fs.Rename(temporary, path);
  if (!status.ok()) {
    (void)fs.Remove(temporary);
    return Annotate(status, absl::StrCat("'", path, "'"));
  }
  return fs.SyncDirectory(DirectoryName(path));
}

std::string ModelExpression(const Spelling& spelling, const ModelConfig& model, bool without_head) {
  const absl::string_view name = spelling.name;
  if (name == "timm") return TimmExpression(model, without_head);
  if (name == "hf") return HfExpression(model);
  return BigVisionExpression(model, without_head);
}

}  // namespace vitscale
