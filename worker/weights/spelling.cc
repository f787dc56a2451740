#include "worker/weights/spelling.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

struct Match {
  int64_t block = 0;  // what "#" stands for
  absl::string_view rest;
};

// Digits as a number is written: no leading zero.
bool TakeNumber(absl::string_view* text, int64_t* number) {
  size_t digits = 0;
  while (digits < text->size() && absl::ascii_isdigit((*text)[digits])) ++digits;
  const absl::string_view written = text->substr(0, digits);
  if (digits == 0 || (digits > 1 && written[0] == '0')) return false;
  text->remove_prefix(digits);
  return absl::SimpleAtoi(written, number);
}

std::optional<Match> MatchPattern(absl::string_view pattern, absl::string_view text) {
  Match match;
  const bool any_rest = absl::ConsumeSuffix(&pattern, "*");
  if (const size_t number = pattern.find('#'); number != absl::string_view::npos) {
    if (!absl::ConsumePrefix(&text, pattern.substr(0, number))) return std::nullopt;
    if (!TakeNumber(&text, &match.block)) return std::nullopt;
    pattern.remove_prefix(number + 1);
  }
  if (!absl::ConsumePrefix(&text, pattern) || (!any_rest && !text.empty())) return std::nullopt;
  match.rest = text;
  return match;
}

std::string FillPattern(absl::string_view pattern, const Match& match) {
  const bool any_rest = absl::ConsumeSuffix(&pattern, "*");
  std::string text(pattern);
  if (const size_t number = text.find('#'); number != std::string::npos) {
    text.replace(number, 1, absl::StrCat(match.block));
  }
  return any_rest ? absl::StrCat(text, match.rest) : text;
}

// Sides of the matrix that kLinear and kLinearHeads transpose.
struct Sides {
  int64_t in = 1, out = 1;
};
Sides SidesOf(Form form, const Shape& ours) {
  const size_t in_axes = form == Form::kLinearHeads ? 2 : 1;
  Sides sides;
  for (size_t i = 0; i < ours.size(); ++i) (i < in_axes ? sides.in : sides.out) *= ours[i];
  return sides;
}

// to[c][r] = from[r][c], in tiles that fit the first cache.
void Transpose(int64_t rows, int64_t columns, const float* from, float* to) {
  constexpr int64_t kTile = 32;
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (int64_t c0 = 0; c0 < columns; c0 += kTile) {
      for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
        for (int64_t c = c0; c < std::min(columns, c0 + kTile); ++c) {
          to[c * rows + r] = from[r * columns + c];
        }
      }
    }
  }
}

// HWIO <-> OIHW.
void ConvToTheirs(const Shape& ours, const float* from, float* to) {
  const int64_t pixels = ours[0] * ours[1], in = ours[2], out = ours[3];
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t o = 0; o < out; ++o) {
        to[(o * in + i) * pixels + p] = from[(p * in + i) * out + o];
      }
    }
  }
}
void ConvFromTheirs(const Shape& ours, const float* from, float* to) {
  const int64_t pixels = ours[0] * ours[1], in = ours[2], out = ours[3];
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t o = 0; o < out; ++o) {
        to[(p * in + i) * out + o] = from[(o * in + i) * pixels + p];
      }
    }
  }
}

}  // namespace

absl::StatusOr<const Spelling*> SpellingByName(absl::string_view name) {
  std::vector<std::string> names;
  for (const Spelling& spelling : Spellings()) {
    if (name == spelling.name) return &spelling;
    names.push_back(spelling.name);
  }
  return absl::NotFoundError(
      absl::StrCat("format '", name, "' is unknown, want ", absl::StrJoin(names, ", ")));
}

std::vector<Place> PlacesOf(const Spelling& spelling, absl::string_view ours, int64_t depth) {
  std::vector<Place> places;
  for (const SpellingRow& row : spelling.rows) {
    const auto match = MatchPattern(row.ours, ours);
    if (!match) continue;
    Place place{FillPattern(row.theirs, *match), row.form, row.part, row.parts, row.by_block};
    if (row.by_block) place.part = match->block;
    if (row.by_block) place.parts = depth;
    places.push_back(std::move(place));
  }
  return places;
}

std::vector<Meaning> MeaningsOf(const Spelling& spelling, absl::string_view theirs) {
  std::vector<Meaning> meanings;
  for (const SpellingRow& row : spelling.rows) {
    if (const auto match = MatchPattern(row.theirs, theirs)) {
      meanings.push_back({FillPattern(row.ours, *match), &row});
    }
  }
  return meanings;
}

Shape TheirShape(const Place& place, const Shape& ours) {
  Shape shape = ours;
  switch (place.form) {
    case Form::kSame:
      break;
    case Form::kVector:
      shape = {ElementCount(ours)};
      break;
    case Form::kRows:
      shape.erase(shape.begin());
      break;
    case Form::kLinear:
    case Form::kLinearHeads: {
      const Sides sides = SidesOf(place.form, ours);
      shape = {sides.out, sides.in};
      break;
    }
    case Form::kConv:
      shape = {ours[3], ours[2], ours[0], ours[1]};
      break;
  }
  if (place.by_block) {
    shape.insert(shape.begin(), place.parts);
  } else {
    shape[0] *= place.parts;
  }
  return shape;
}

void CopyFromTheirs(const Place& place, const Shape& shape, absl::Span<const float> theirs,
                    absl::Span<float> ours) {
  const int64_t count = static_cast<int64_t>(ours.size());
  VITSCALE_CHECK(static_cast<int64_t>(theirs.size()) == count * place.parts) << place.name;
  const float* from = theirs.data() + place.part * count;
  if (place.form == Form::kConv) {
    ConvFromTheirs(shape, from, ours.data());
  } else if (place.form == Form::kLinear || place.form == Form::kLinearHeads) {
    const Sides sides = SidesOf(place.form, shape);
    Transpose(sides.out, sides.in, from, ours.data());
  } else {
    std::copy_n(from, count, ours.data());
  }
}

void CopyToTheirs(const Place& place, const Shape& shape, absl::Span<const float> ours,
                  absl::Span<float> theirs) {
  const int64_t count = static_cast<int64_t>(ours.size());
  VITSCALE_CHECK(static_cast<int64_t>(theirs.size()) == count * place.parts) << place.name;
  float* to = theirs.data() + place.part * count;
  if (place.form == Form::kConv) {
    ConvToTheirs(shape, ours.data(), to);
  } else if (place.form == Form::kLinear || place.form == Form::kLinearHeads) {
    const Sides sides = SidesOf(place.form, shape);
    Transpose(sides.in, sides.out, ours.data(), to);
  } else {
    std::copy_n(ours.data(), count, to);
  }
}

}  // namespace vitscale
