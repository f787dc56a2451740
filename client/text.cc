#include "client/text.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/spec/message_text.h"

namespace vitscale {
namespace {

std::string Pad(const std::string& cell, int width) {
  return cell + std::string(std::max(0, width - DisplayWidth(cell)), ' ');
}

std::string Escaped(absl::string_view code, const std::string& text, bool color) {
  return color ? absl::StrCat("\x1b[", code, "m", text, "\x1b[0m") : text;
}

std::string CsvCell(const std::string& cell) {
  if (cell.find_first_of(",\"\n\r") == std::string::npos) return cell;
  std::string quoted = "\"";
  for (const char c : cell) {
    quoted += c == '"' ? "\"\"" : std::string(1, c);
  }
  return quoted + "\"";
}

template <typename Enum>
std::string Word(const google::protobuf::EnumDescriptor* type, Enum value) {
  const auto* known = type->FindValueByNumber(value);
  return known == nullptr ? absl::StrCat(static_cast<int>(value)) : EnumShown(*known);
}

}  // namespace

std::string Table::Text() const {
  std::vector<int> widths;
  for (const std::string& cell : head_) widths.push_back(DisplayWidth(cell));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i) {
      widths[i] = std::max(widths[i], DisplayWidth(row[i]));
    }
  }
  std::string text;
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string out;
    for (size_t i = 0; i < cells.size() && i < widths.size(); ++i) {
      absl::StrAppend(&out, i == 0 ? "" : "  ", Pad(cells[i], widths[i]));
    }
    out.erase(out.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, out, "\n");
  };
  line(head_);
  for (const auto& row : rows_) line(row);
  return text;
}

std::string Table::Csv() const {
  std::string text;
  const auto line = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "" : ",", CsvCell(cells[i]));
    }
    text += "\n";
  };
  line(head_);
  for (const auto& row : rows_) line(row);
  return text;
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {  // "\x1b[…m"
      while (i < text.size() && text[i] != 'm') ++i;
    } else if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) {
      ++width;
    }
  }
  return width;
}

std::string Shorten(absl::string_view text, int width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  size_t end = 0;
  for (int characters = 0; end < text.size(); ++end) {
    if ((static_cast<unsigned char>(text[end]) & 0xc0) != 0x80 && ++characters >= width) break;
  }
  return absl::StrCat(text.substr(0, end), "…");
}

std::string Thousands(int64_t number) {
  const std::string digits = absl::StrCat(number < 0 ? -number : number);
  std::string out = number < 0 ? "-" : "";
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string Significant(double value, int digits) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (value == 0) return "0";
  const int magnitude = static_cast<int>(std::floor(std::log10(std::abs(value))));
  if (magnitude < -4 || magnitude > 6) return absl::StrFormat("%.*e", digits - 1, value);
  return absl::StrFormat("%.*f", std::max(0, digits - 1 - magnitude), value);
}

std::string Age(absl::Duration duration) {
  const int64_t s = std::max<int64_t>(0, absl::ToInt64Seconds(duration));
  if (s < 60) return absl::StrFormat("%ds", s);
  if (s < 3600) return absl::StrFormat("%dm%02ds", s / 60, s % 60);
  if (s < 86400) return absl::StrFormat("%dh%02dm", s / 3600, s / 60 % 60);
  return absl::StrFormat("%dd%02dh", s / 86400, s / 3600 % 24);
}

absl::Time TimeOf(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixSeconds(timestamp.seconds()) + absl::Nanoseconds(timestamp.nanos());
}

std::string ClockTime(const google::protobuf::Timestamp& timestamp) {
  if (timestamp.seconds() == 0) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", TimeOf(timestamp), absl::LocalTimeZone());
}

std::string StateWord(v1::JobState state) { return Word(v1::JobState_descriptor(), state); }
std::string StateWord(v1::WorkerState state) { return Word(v1::WorkerState_descriptor(), state); }
std::string IntentWord(v1::Intent intent) { return Word(v1::Intent_descriptor(), intent); }

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

std::string Coloured(const std::string& word, bool color) {
  if (word == "RUNNING" || word == "SUCCEEDED" || word == "IDLE" || word == "BUSY") {
    return Escaped("32", word, color);
  }
  if (word == "FAILED" || word == "LOST" || word == "QUARANTINED" || word == "UNREACHABLE") {
    return Escaped("31", word, color);
  }
  return Escaped("33", word, color);
}

std::string Bold(const std::string& text, bool color) { return Escaped("1", text, color); }
std::string Dim(const std::string& text, bool color) { return Escaped("2", text, color); }

}  // namespace vitscale
