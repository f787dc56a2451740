#include "proto/spec/units.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

constexpr int64_t kMicros = 1'000'000;
constexpr int64_t kUnitsMax = 1'000'000'000'000;

absl::Status LengthError(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("was \"", text,
                                                 "\", wanted a length with a unit such as \"10000 "
                                                 "steps\", \"1280000 images\" or \"90 epochs\""));
}

absl::Status DurationError(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("was \"", text, "\", wanted a duration such as \"90s\", \"15m\" or \"2h\""));
}

absl::Status SizeError(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("was \"", text, "\", wanted a size such as \"64Mi\", \"1.5Gi\" or \"1000000\""));
}

std::optional<LengthUnit> UnitByWord(absl::string_view word) {
  if (word == "steps" || word == "step") return LengthUnit::kSteps;
  if (word == "images" || word == "image") return LengthUnit::kImages;
  if (word == "epochs" || word == "epoch") return LengthUnit::kEpochs;
  return std::nullopt;
}

absl::string_view UnitWord(LengthUnit unit) {
  switch (unit) {
    case LengthUnit::kSteps:
      return "steps";
    case LengthUnit::kImages:
      return "images";
    case LengthUnit::kEpochs:
      return "epochs";
  }
  return "";
}

bool AllDigits(absl::string_view text) {
  for (const char c : text) {
    if (!absl::ascii_isdigit(c)) return false;
  }
  return !text.empty();
}

// Why the number of a length that has its unit is none.
absl::Status NumberError(absl::string_view text, absl::string_view number) {
  const std::vector<absl::string_view> parts = absl::StrSplit(number, '.');
  absl::string_view wanted = "a number such as 10000 or 0.5 before the unit";
  if (AllDigits(parts[0]) && (parts.size() == 1 || (parts.size() == 2 && AllDigits(parts[1])))) {
    wanted = parts.size() == 2 && parts[1].size() > 6 ? "at most 6 digits after the point"
                                                      : "at most 1000000000000 of them";
  }
  return absl::InvalidArgumentError(absl::StrCat("was \"", text, "\", wanted ", wanted));
}

// "12" or "12.5" in millionths; nothing else.
std::optional<int64_t> ParseMicros(absl::string_view number) {
  const size_t dot = number.find('.');
  const absl::string_view whole = number.substr(0, dot);
  std::string fraction = dot == absl::string_view::npos ? "0" : std::string(number.substr(dot + 1));
  int64_t units = 0;
  if (!AllDigits(whole) || !AllDigits(fraction) || fraction.size() > 6 ||
      !absl::SimpleAtoi(whole, &units) || units > kUnitsMax) {
    return std::nullopt;
  }
  fraction.resize(6, '0');
  int64_t micros = 0;
  (void)absl::SimpleAtoi(fraction, &micros);
  return units * kMicros + micros;
}

// Bytes of "Mi", "M", "MiB", "MB" or, of one byte, "" and "B".
std::optional<int64_t> UnitBytes(absl::string_view unit) {
  (void)absl::ConsumeSuffix(&unit, "B");
  if (unit.empty()) return 1;
  const bool binary = absl::ConsumeSuffix(&unit, "i");
  const char letter = unit == "K" && binary ? 'k' : unit.empty() ? '?' : unit[0];
  const size_t power = absl::string_view("kMGTP").find(letter);
  if (unit.size() != 1 || power == absl::string_view::npos) return std::nullopt;
  int64_t bytes = 1;
  for (size_t i = 0; i <= power; ++i) bytes *= binary ? 1024 : 1000;
  return bytes;
}

}  // namespace

absl::StatusOr<Length> ParseLength(absl::string_view text) {
  const absl::string_view trimmed = absl::StripAsciiWhitespace(text);
  const size_t end = trimmed.find_first_not_of("0123456789.");
  if (end == absl::string_view::npos) {
    return LengthError(text);
  }
  const auto unit = UnitByWord(absl::StripLeadingAsciiWhitespace(trimmed.substr(end)));
  const auto micros = ParseMicros(trimmed.substr(0, end));
  if (unit.has_value() && !micros.has_value()) return NumberError(text, trimmed.substr(0, end));
  if (!unit.has_value()) return LengthError(text);
  if (*unit != LengthUnit::kEpochs && *micros % kMicros != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("was \"", text, "\", wanted a whole number of ", UnitWord(*unit)));
  }
  return Length{*micros, *unit};
}

std::string FormatLength(const Length& length) {
  std::string number = absl::StrCat(length.whole());
  if (const int64_t rest = length.micros % kMicros; rest != 0) {
    std::string digits = absl::StrFormat("%06d", rest);
    digits.erase(digits.find_last_not_of('0') + 1);
    absl::StrAppend(&number, ".", digits);
  }
  return absl::StrCat(number, " ", UnitWord(length.unit));
}

absl::StatusOr<int64_t> LengthInSteps(const Length& length, int64_t batch_global,
                                      int64_t train_images) {
  VITSCALE_CHECK(batch_global > 0) << "batch_global " << batch_global;
  switch (length.unit) {
    case LengthUnit::kSteps:
      return length.whole();
    case LengthUnit::kImages:
      return (length.whole() + batch_global - 1) / batch_global;
    case LengthUnit::kEpochs:
      break;
  }
  const int64_t steps_per_epoch = train_images / batch_global;
  if (steps_per_epoch <= 0) {
    return absl::FailedPreconditionError(absl::StrCat("an epoch has no step: ", train_images,
                                                      " training images, a global batch of ",
                                                      batch_global));
  }
  const __int128 micros = static_cast<__int128>(length.micros) * steps_per_epoch;
  const __int128 steps = (micros + kMicros / 2) / kMicros;
  if (steps > std::numeric_limits<int64_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(FormatLength(length), " are too many steps"));
  }
  return static_cast<int64_t>(steps);
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  absl::string_view trimmed = absl::StripAsciiWhitespace(text);
  absl::Duration duration;
  int64_t days = 0;
  if (const size_t d = trimmed.find('d'); d != absl::string_view::npos) {  // absl knows no days
    if (!AllDigits(trimmed.substr(0, d)) || !absl::SimpleAtoi(trimmed.substr(0, d), &days) ||
        days > 36500) {
      return DurationError(text);
    }
    trimmed.remove_prefix(d + 1);
  }
  const bool only_days = trimmed.empty() && days > 0;
  if (!only_days && !absl::ParseDuration(trimmed, &duration)) {
    return DurationError(text);
  }
  duration += days * absl::Hours(24);
  if (duration < absl::ZeroDuration() || duration == absl::InfiniteDuration()) {
    return DurationError(text);
  }
  return duration;
}

std::string DurationText(absl::Duration duration) {
  const int64_t millis = absl::ToInt64Milliseconds(duration);
  if (absl::Milliseconds(millis) != duration) return absl::FormatDuration(duration);
  if (millis % 1000 != 0 || millis == 0) {
    return millis == 0 ? "0s" : absl::StrCat(millis, "ms");
  }
  const int64_t seconds = millis / 1000;
  if (seconds % 3600 == 0) return absl::StrCat(seconds / 3600, "h");
  if (seconds % 60 == 0 && seconds > 120) return absl::StrCat(seconds / 60, "m");
  return absl::StrCat(seconds, "s");
}

absl::StatusOr<int64_t> ParseSize(absl::string_view text) {
  const absl::string_view trimmed = absl::StripAsciiWhitespace(text);
  const size_t end = std::min(trimmed.find_first_not_of("0123456789."), trimmed.size());
  const absl::string_view number = trimmed.substr(0, end);
  const size_t dot = number.find('.');
  int64_t whole = 0;
  const auto decimals = dot == absl::string_view::npos
                            ? std::optional<int64_t>(0)
                            : ParseMicros(absl::StrCat("0", number.substr(dot)));
  const auto unit = UnitBytes(absl::StripLeadingAsciiWhitespace(trimmed.substr(end)));
  if (!AllDigits(number.substr(0, dot)) || !absl::SimpleAtoi(number.substr(0, dot), &whole) ||
      !decimals || !unit || (*unit == 1 && dot != absl::string_view::npos)) {
    return SizeError(text);
  }
  // unit * decimals / 10^6, of which the product may be too large.
  const int64_t part = *unit / kMicros * *decimals + *unit % kMicros * *decimals / kMicros;
  if (whole > (std::numeric_limits<int64_t>::max() - part) / *unit) return SizeError(text);
  return whole * *unit + part;
}

std::string FormatSize(int64_t bytes) {
  static constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return absl::StrCat(bytes, " B");
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return absl::StrFormat("%.*f %s", decimals, value, kUnits[unit]);
}

}  // namespace vitscale
