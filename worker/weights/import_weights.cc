#include "worker/weights/import_weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"
#include "worker/weights/resample.h"

namespace vitscale {
namespace {

constexpr char kPositions[] = "pos_embedding";
constexpr char kClassToken[] = "cls";

bool IsHead(absl::string_view ours) { return absl::StartsWith(ours, "head/"); }

std::string ShapeText(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// One parameter's part of a tensor of the file.
struct Copy {
  const Parameter* parameter = nullptr;
  Place place;
};

// Pairs every parameter with a tensor of the file and collects all that does not fit.
class Matcher {
 public:
  Matcher(const std::vector<WeightTensor>& tensors, const Dialect& dialect, const ModelGuess& guess,
          bool without_head)
      : tensors_(tensors),
        dialect_(dialect),
        guess_(guess),
        without_head_(without_head),
        copies_(tensors.size()) {
    for (size_t i = 0; i < tensors.size(); ++i) by_name_[tensors[i].name] = i;
  }

  absl::Status Match(const ParamTable& table) {
    for (const Parameter& p : table.parameters()) {
      if (!without_head_ || !IsHead(p.name)) MatchOne(p);
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (copies_[i].empty()) Leftover(tensors_[i].name);
    }
    if (faults_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the file does not fit the model, nothing is loaded: ", Counts(), ":\n  ",
                     absl::StrJoin(First(kFaultsShown), "\n  "),
                     faults_.size() > kFaultsShown
                         ? absl::StrCat("\n  and ", faults_.size() - kFaultsShown, " more")
                         : "",
                     head_missing_ ? kHeadHint : ""));
  }

  const std::vector<std::vector<Copy>>& copies() const { return copies_; }  // by tensor
  std::vector<std::string> ignored() && { return std::move(ignored_); }

 private:
  static constexpr char kHeadHint[] =
      "\n  (--without-head leaves the file's head out and gives the model one of zeros)";
  static constexpr size_t kFaultsShown = 10;

  // "3 missing, 1 misshapen": each fault begins with its kind.
  std::string Counts() const {
    std::vector<std::string> counts;
    for (const char* kind : {"missing", "misshapen", "unreadable", "unknown"}) {
      const auto count =
          std::count_if(faults_.begin(), faults_.end(), [&](const std::string& fault) {
            return absl::StartsWith(fault, absl::StrCat(kind, ": "));
          });
      if (count > 0) counts.push_back(absl::StrCat(count, " ", kind));
    }
    return absl::StrJoin(counts, ", ");
  }

  std::vector<std::string> First(size_t count) const {
    return {faults_.begin(), faults_.begin() + std::min(count, faults_.size())};
  }

  void MatchOne(const Parameter& p) {
    const std::vector<Place> places = PlacesOf(*dialect_.spelling, p.name, guess_.model.depth);
    for (const Place& place : places) {
      const auto found = by_name_.find(absl::StrCat(dialect_.prefix, place.name));
      if (found == by_name_.end()) continue;
      const WeightTensor& tensor = tensors_[found->second];
      const Shape wanted = TheirShape(place, FileShape(p));
      const bool first_seen = copies_[found->second].empty();
      copies_[found->second].push_back({&p, place});
      if (!first_seen) return;  // its faults are told once
      if (!tensor.fault.empty()) {
        Fault(p, absl::StrCat("unreadable: '", tensor.name, "' ", tensor.fault));
      } else if (tensor.shape != wanted) {
        Fault(p, absl::StrCat("misshapen: '", tensor.name, "' is ", ShapeText(tensor.shape),
                              ", want ", ShapeText(wanted)));
      }
      return;
    }
    if (places.empty()) {
      Fault(p, absl::StrCat("missing: ", p.name, ", for which ", dialect_.spelling->title,
                            " has no name"));
    } else {
      Fault(p, absl::StrCat("missing: '", dialect_.prefix, places[0].name, "' ",
                            ShapeText(TheirShape(places[0], FileShape(p)))));
    }
  }

  // As the file should have it: on its own grid, with the class token's position if it has that.
  Shape FileShape(const Parameter& p) const {
    if (p.name != kPositions || guess_.file_grid == 0) return p.shape;
    const int64_t grid = guess_.file_grid;
    return {1, grid * grid + (guess_.class_token_first ? 1 : 0), p.shape[2]};
  }

  void Leftover(const std::string& name) {
    absl::string_view rest = name;
    const auto& ignorable = dialect_.spelling->ignorable;
    if (!absl::ConsumePrefix(&rest, dialect_.prefix) ||
        std::find(ignorable.begin(), ignorable.end(), rest) != ignorable.end()) {
      ignored_.push_back(name);
      return;
    }
    if (without_head_) {
      for (const Meaning& meaning : MeaningsOf(*dialect_.spelling, rest)) {
        if (!IsHead(meaning.ours)) continue;
        ignored_.push_back(name);
        return;
      }
    }
    faults_.push_back(absl::StrCat("unknown: '", name, "'"));
  }

  void Fault(const Parameter& p, std::string what) {
    head_missing_ |= IsHead(p.name);
    faults_.push_back(std::move(what));
  }

  const std::vector<WeightTensor>& tensors_;
  const Dialect& dialect_;
  const ModelGuess& guess_;
  const bool without_head_;
  absl::flat_hash_map<std::string, size_t> by_name_;
  std::vector<std::vector<Copy>> copies_;
  std::vector<std::string> faults_, ignored_;
  bool head_missing_ = false;
};

// Takes the tensors as they come; positions and class token are put together at the end.
class Loader {
 public:
  Loader(const ModelGuess& guess, Weights& weights) : guess_(guess), weights_(weights) {}

  void Take(const std::vector<Copy>& copies, absl::Span<const float> values) {
    for (const Copy& copy : copies) {
      const Parameter& p = *copy.parameter;
      if (p.name == kPositions) {
        positions_.assign(values.begin(), values.end());  // every form keeps their order
      } else {
        CopyFromTheirs(copy.place, p.shape, values, weights_.Of(p));
      }
    }
  }

  void Finish(std::vector<std::string>* notes) {
    const Parameter* p = weights_.table.Find(kPositions);
    if (p == nullptr) return;
    absl::Span<const float> positions = positions_;
    if (guess_.class_token_first) {
      AddToClassToken(positions.first(weights_.model.width));
      positions.remove_prefix(weights_.model.width);
      notes->push_back("positions: the class token's was added to the class token");
    }
    const int64_t from = guess_.file_grid, to = weights_.model.grid();
    const absl::Span<float> target = weights_.Of(*p);
    if (from == to) {
      std::copy(positions.begin(), positions.end(), target.begin());
      return;
    }
    const std::vector<float> resampled =
        ResamplePositions(positions, from, to, weights_.model.width);
    std::copy(resampled.begin(), resampled.end(), target.begin());
    notes->push_back(absl::StrCat("positions: resampled from ", from, "x", from, " to ", to, "x",
                                  to, " (bilinear, corners aligned)"));
  }

 private:
  void AddToClassToken(absl::Span<const float> position) {
    const absl::Span<float> cls = weights_.Of(*weights_.table.Find(kClassToken));
    for (size_t i = 0; i < cls.size(); ++i) cls[i] += position[i];
  }

  const ModelGuess& guess_;
  Weights& weights_;
  std::vector<float> positions_;
};

void MakeHead(Weights& weights, std::vector<std::string>* notes) {
  const absl::Span<float> bias = weights.Of(*weights.table.Find("head/bias"));
  std::fill(bias.begin(), bias.end(), static_cast<float>(weights.model.head_bias));
  notes->push_back(absl::StrCat("head: zeros, for ", weights.model.classes,
                                weights.model.classes == 1 ? " class" : " classes"));
}

// They are kept bit for bit; whoever evaluates them had better know.
void NoteNonFinite(const Weights& weights, std::vector<std::string>* notes) {
  for (const Parameter& p : weights.table.parameters()) {
    const absl::Span<const float> values = weights.Of(p);
    const int64_t broken =
        std::count_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    if (broken == 0) continue;
    notes->push_back(absl::StrCat("warning: ", p.name, " has ", broken, " of ", values.size(),
                                  " values that are not finite"));
  }
}

absl::StatusOr<ImportedWeights> Import(WeightFile& file, const ImportOptions& options,
                                       const Progress& progress) {
  VITSCALE_ASSIGN_OR_RETURN(const Dialect dialect, FindDialect(file.tensors(), options.format));
  ModelHints hints = options.hints;
  if (options.without_head && hints.classes == 0) hints.classes = 1;
  VITSCALE_ASSIGN_OR_RETURN(ModelGuess guess, GuessModel(file.tensors(), dialect, hints));
  const ParamTable table(guess.model, OptimizerKind::kAdafactor);
  Matcher matcher(file.tensors(), dialect, guess, options.without_head);
  VITSCALE_RETURN_IF_ERROR(Annotate(matcher.Match(table), dialect.spelling->title));

  ImportedWeights imported;
  imported.title = dialect.spelling->title;
  imported.prefix = dialect.prefix;
  imported.notes = guess.notes;
  imported.weights = Weights(guess.model);
  Loader loader(guess, imported.weights);
  std::vector<bool> wanted;
  for (const std::vector<Copy>& copies : matcher.copies()) wanted.push_back(!copies.empty());
  VITSCALE_RETURN_IF_ERROR(file.Read(
      wanted,
      [&](size_t i, absl::Span<const float> values) { loader.Take(matcher.copies()[i], values); },
      progress));
  loader.Finish(&imported.notes);
  if (options.without_head) MakeHead(imported.weights, &imported.notes);
  NoteNonFinite(imported.weights, &imported.notes);
  imported.ignored = std::move(matcher).ignored();
  return imported;
}

}  // namespace

absl::StatusOr<ImportedWeights> ImportWeights(FileSystem& fs, const std::string& path,
                                              const ImportOptions& options,
                                              const Progress& progress) {
  VITSCALE_ASSIGN_OR_RETURN(const std::unique_ptr<WeightFile> file, OpenWeightFile(fs, path));
  auto imported = Import(*file, options, progress);
  if (!imported.ok()) return Annotate(imported.status(), absl::StrCat("'", path, "'"));
  return imported;
}

}  // namespace vitscale
