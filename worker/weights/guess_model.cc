#include "worker/weights/guess_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr char kPatchKernel[] = "embedding/kernel";
constexpr absl::string_view kBlock = "Transformer/encoderblock_";

int Clamp(int64_t dim) {
  return static_cast<int>(std::min<int64_t>(dim, std::numeric_limits<int>::max()));
}

// A shape of theirs in our order of axes, attention kernels with heads and head_dim in one unless
// the file has them apart. Empty where the number of axes does not fit the form.
Shape OurAxes(const SpellingRow& row, Shape theirs) {
  if (row.by_block && !theirs.empty()) theirs.erase(theirs.begin());
  if (theirs.empty()) return {};
  if (!row.by_block) theirs[0] /= row.parts;
  switch (row.form) {
    case Form::kSame:
    case Form::kVector:
      return theirs;
    case Form::kRows:
      theirs.insert(theirs.begin(), 1);
      return theirs;
    case Form::kLinear:
    case Form::kLinearHeads:
      return theirs.size() == 2 ? Shape{theirs[1], theirs[0]} : Shape{};
    case Form::kConv:
      return theirs.size() == 4 ? Shape{theirs[2], theirs[3], theirs[1], theirs[0]} : Shape{};
  }
  return {};
}

// The file in our words.
class Facts {
 public:
  Facts(const std::vector<WeightTensor>& tensors, const Dialect& dialect) {
    for (const WeightTensor& tensor : tensors) {
      absl::string_view name = tensor.name;
      if (!absl::ConsumePrefix(&name, dialect.prefix)) continue;
      for (const Meaning& meaning : MeaningsOf(*dialect.spelling, name)) {
        Note(meaning, tensor.shape);
      }
    }
  }

  bool Has(absl::string_view ours) const { return shapes_.contains(ours); }
  // Dimension `axis` of a tensor of `axes` axes; 0 if there is none such.
  int64_t Dim(absl::string_view ours, size_t axes, size_t axis) const {
    const auto found = shapes_.find(ours);
    return found == shapes_.end() || found->second.size() != axes ? 0 : found->second[axis];
  }
  int64_t depth() const { return depth_; }

 private:
  void Note(const Meaning& meaning, const Shape& theirs) {
    shapes_.emplace(meaning.ours, OurAxes(*meaning.row, theirs));
    absl::string_view rest = meaning.ours;
    if (!absl::ConsumePrefix(&rest, kBlock)) return;
    int64_t block = 0;
    if (!absl::SimpleAtoi(rest.substr(0, rest.find('/')), &block)) return;
    if (meaning.row->by_block) block = theirs.empty() ? 0 : theirs[0] - 1;
    depth_ = std::max(depth_, std::min<int64_t>(block, 1 << 30) + 1);
  }

  absl::flat_hash_map<std::string, Shape> shapes_;
  int64_t depth_ = 0;
};

absl::Status GuessHeads(const Facts& facts, const ModelHints& hints, const Dialect& dialect,
                        ModelGuess* guess) {
  ModelConfig& m = guess->model;
  if (hints.heads > 0) {
    m.heads = hints.heads;
    return absl::OkStatus();
  }
  if (hints.shape) return absl::OkStatus();
  const std::string query = absl::StrCat(kBlock, "0/MultiHeadDotProductAttention_0/query/kernel");
  if (dialect.spelling->tells_heads) {
    m.heads = Clamp(facts.Dim(query, 3, 1));
    return absl::OkStatus();
  }
  for (const std::string& name : VariantNames()) {
    const auto shape = VariantByName(name);
    if (!shape.ok() || shape->width != m.width || shape->depth != m.depth ||
        shape->mlp_width != m.mlp_width) {
      continue;
    }
    m.heads = shape->heads;
    guess->notes.push_back(
        absl::StrCat("heads: ", m.heads, ", as in ", name.substr(0, name.find('/')),
                     ", which has this width, depth and mlp width (", dialect.spelling->title,
                     " files do not say; --heads says otherwise)"));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("heads: a ", dialect.spelling->title,
                   " file does not say how many heads there are, and no "
                   "named variant has width ",
                   m.width, ", depth ", m.depth, " and mlp width ", m.mlp_width, "; give --heads"));
}

absl::Status GuessPositions(const Facts& facts, const ModelHints& hints, const Dialect& dialect,
                            ModelGuess* guess) {
  ModelConfig& m = guess->model;
  const int64_t tokens = facts.Dim("pos_embedding", 3, 1);
  m.position = tokens > 0 || !dialect.spelling->has_sincos2d ? PositionKind::kLearned
                                                             : PositionKind::kSincos2d;
  if (m.position == PositionKind::kSincos2d && !hints.position) {
    guess->notes.push_back("positions: the file has no pos_embedding, so sincos2d");
  }
  if (hints.position) m.position = *hints.position;
  const auto side = [](int64_t count) {
    return static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(count))));
  };
  const auto square = [&](int64_t count) {
    return count > 0 && side(count) * side(count) == count;
  };
  guess->class_token_first = m.pool == PoolKind::kCls && !square(tokens) && square(tokens - 1);
  const int64_t patches = tokens - (guess->class_token_first ? 1 : 0);
  if (tokens > 0 && !square(patches)) {
    return absl::InvalidArgumentError(
        absl::StrCat("pos_embedding has ", tokens, " positions, want a square grid",
                     m.pool == PoolKind::kCls ? ", with or without one of the class token" : ""));
  }
  guess->file_grid = tokens > 0 ? side(patches) : 0;
  constexpr int kUsualSize = 224;
  m.image_size = hints.image_size > 0   ? hints.image_size
                 : guess->file_grid > 0 ? Clamp(guess->file_grid * m.patch)
                                        : kUsualSize;
  return absl::OkStatus();
}

void GuessShape(const Facts& facts, const ModelHints& hints, ModelConfig* m) {
  if (hints.shape) {
    m->SetShape(*hints.shape);
  } else {
    m->patch = Clamp(facts.Dim(kPatchKernel, 4, 0));
    m->width = Clamp(facts.Dim(kPatchKernel, 4, 3));
    m->depth = Clamp(facts.depth());
    m->mlp_width = Clamp(facts.Dim(absl::StrCat(kBlock, "0/MlpBlock_0/Dense_0/kernel"), 2, 1));
  }
  m->channels = Clamp(facts.Dim(kPatchKernel, 4, 2));
  m->pool = facts.Has("MAPHead_0/probe") ? PoolKind::kMap
            : facts.Has("cls")           ? PoolKind::kCls
                                         : PoolKind::kGap;
  if (hints.pool) m->pool = *hints.pool;
  m->representation_size =
      hints.representation_size.value_or(Clamp(facts.Dim("pre_logits/kernel", 2, 1)));
  m->classes = hints.classes > 0 ? hints.classes : Clamp(facts.Dim("head/kernel", 2, 1));
  if (m->classes == 0) m->classes = 1;
  m->loss = hints.loss;
  m->head_bias = hints.head_bias;
}

}  // namespace

absl::StatusOr<Dialect> FindDialect(const std::vector<WeightTensor>& tensors,
                                    absl::string_view format) {
  if (format != "auto") VITSCALE_RETURN_IF_ERROR(SpellingByName(format).status());
  absl::flat_hash_set<absl::string_view> names;
  for (const WeightTensor& tensor : tensors) names.insert(tensor.name);
  std::vector<std::string> wanted;
  for (const Spelling& spelling : Spellings()) {
    if (format != "auto" && format != spelling.name) continue;
    const std::string kernel = PlacesOf(spelling, kPatchKernel, 1)[0].name;
    wanted.push_back(absl::StrCat("'", kernel, "' (", spelling.title, ")"));
    for (const char* prefix : spelling.prefixes) {
      if (names.contains(absl::StrCat(prefix, kernel))) return Dialect{&spelling, prefix};
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no weights of a Vision Transformer that are known: of the ", tensors.size(),
                   " tensors none is ", absl::StrJoin(wanted, ", "),
                   tensors.empty() ? "" : absl::StrCat("; the first is '", tensors[0].name, "'")));
}

absl::StatusOr<ModelGuess> GuessModel(const std::vector<WeightTensor>& tensors,
                                      const Dialect& dialect, const ModelHints& hints) {
  const Facts facts(tensors, dialect);
  ModelGuess guess;
  GuessShape(facts, hints, &guess.model);
  VITSCALE_RETURN_IF_ERROR(GuessHeads(facts, hints, dialect, &guess));
  VITSCALE_RETURN_IF_ERROR(GuessPositions(facts, hints, dialect, &guess));
  VITSCALE_RETURN_IF_ERROR(
      Annotate(ValidateModel(guess.model), "the shapes of the file give no model"));
  return guess;
}

std::string VariantOf(const ModelConfig& m) {
  for (const std::string& name : VariantNames()) {
    const std::string variant = absl::StrCat(name.substr(0, name.find('/')), "/", m.patch);
    const auto s = VariantByName(variant);
    if (s.ok() && s->width == m.width && s->depth == m.depth && s->heads == m.heads &&
        s->mlp_width == m.mlp_width) {
      return variant;
    }
  }
  return "";
}

}  // namespace vitscale
